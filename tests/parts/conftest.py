"""A folder outside of the package, with parts of one's own."""

import inspect
import re
import shutil
from importlib import import_module
from pathlib import Path

import pytest

from psld.config.kinds import SHIPPED

HEADER = """
from math import cos, pi, sqrt

from pydantic import Field

from psld.parts import Average, Optimizer, Schedule
"""


def shipped_classes(noun: str) -> list[type]:
    names = (name.partition(":") for name in SHIPPED[noun].values())
    return [getattr(import_module(module), kind) for module, _, kind in names]


def kinds(noun: str, *own: str) -> list[str]:
    """The shipped kinds, the same parts moved to a file outside, and more of one's own."""
    moved = (f"moved:{kind.__name__}" for kind in shipped_classes(noun))
    return [*SHIPPED[noun], *moved, *(f"mine:{name}" for name in own)]


@pytest.fixture
def outside(tmp_path, monkeypatch) -> Path:
    """The working folder, in which mine.py and moved.py are."""
    nouns = ("optimizer", "schedule", "average")
    sources = [inspect.getsource(kind) for noun in nouns for kind in shipped_classes(noun)]
    kindless = (re.sub(r"    kind: str = .*\n", "", source) for source in sources)
    (tmp_path / "moved.py").write_text("\n\n".join([HEADER, *kindless]))
    shutil.copy(Path(__file__).with_name("mine.py"), tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path
