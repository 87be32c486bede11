"""Folders that are made once in a test run: one worker of pytest-xdist makes each folder for all
workers."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

Once = Callable[[str, Callable[[Path], object]], Path]
"""Returns the folder with a name; a function fills the folder if no worker has filled it before."""


def once_for_all_workers(factory: pytest.TempPathFactory) -> Once:
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent

    def once(name: str, fill: Callable[[Path], object]) -> Path:
        folder, done = base / "shared" / name, base / "shared" / f"{name}.done"
        folder.parent.mkdir(exist_ok=True)
        with FileLock(folder.with_name(f"{name}.lock")):
            if not done.exists():
                folder.mkdir()
                fill(folder)
                done.touch()
        return folder

    return once
