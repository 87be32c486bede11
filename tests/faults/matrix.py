"""The columns of the matrix, the fields that cannot happen, and the tests of the other fields."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

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
"""The columns of the matrix. A new column needs a test or a reason for each stage."""


class Reason(NamedTuple):
    """The proof that a fault cannot happen in a stage."""

    sentence: str
    code: str
    """`module:function` that makes it impossible; a method is `module:Class.method`."""


REASONS = {
    ("full quota at rename", "sync"): Reason(
        "It renames nothing: it only adds an empty file that marks an upload.",
        "psld.report.sync:mark_of",
    ),
    ("input replaced while it is read", "sync"): Reason(
        "Each start of a training writes a file of its own, and only when no training holds the "
        "lock of the run directory are its files read.",
        "psld.report.sync:_upload_training",
    ),
}
"""The fields (fault, stage) without a test."""


def fault(name: str, *only: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Mark a test of a fault: it takes the argument `stage`, for each stage that can have it.

    Args:
        name: a column of the matrix.
        only: the names of the stages, if the test is not for all.
    """
    cases = [
        stage
        for stage in STAGES
        if (name, stage.name) not in REASONS and stage.name in (only or stage.name)
    ]

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
