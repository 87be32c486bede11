"""The columns of the matrix, and the tests of its fields."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.stages import STAGES

FAULTS = (
    "full disk",
    "full quota at rename",
    "read-only folder",
    "truncated input",
    "flipped byte",
    "input of another version",
    "input replaced while it is read",
    "kill -9",
    "SIGTERM",
    "Ctrl-C",
    "clock set back",
    "two at once",
    "out of memory",
    "slow shared file system",
)
"""The columns of the matrix. A new column needs a test for each stage."""


def fault(name: str, *only: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Mark a test of a fault: it takes the argument `stage`, for each stage.

    Args:
        name: a column of the matrix.
        only: the names of the stages, if the test is not for all.
    """
    cases = [stage for stage in STAGES if stage.name in (only or stage.name)]

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        marked = pytest.mark.parametrize("stage", cases, ids=lambda stage: stage.name)(test)
        return pytest.mark.slow(pytest.mark.fault(name)(marked))

    return decorate


def field_of(item: Any) -> tuple[str, str] | None:
    """The field (fault, stage) that a collected test belongs to."""
    mark = item.get_closest_marker("fault")
    return mark and (mark.args[0], item.callspec.params["stage"].name)


def fields_with_tests() -> set[tuple[str, str]]:
    """The fields (fault, stage) that have a test."""
    found = set()
    for file in Path(__file__).parent.glob("test_*.py"):
        module = importlib.import_module(f"{__package__}.{file.stem}")
        for test in vars(module).values():
            marks = {mark.name: mark.args for mark in getattr(test, "pytestmark", [])}
            if "fault" in marks:
                [name], (_, stages) = marks["fault"], marks["parametrize"]
                found |= {(name, stage.name) for stage in stages}
    return found
