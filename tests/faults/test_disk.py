"""Faults of writing: a full disk, a quota that ends at the last moment, a read-only folder."""

import errno
import os
from pathlib import Path

import pytest

from tests.commands import disk_full_after, files_below, read_only
from tests.faults.checks import begin_again, check_again, check_nothing_lost, refused
from tests.faults.stages import Stage

pytestmark = pytest.mark.slow


def test_full_disk(project, finished, stage: Stage):
    """First, writing any nonempty file fails; then, only writing the largest file fails."""
    sizes = [len(content) for content in stage.made(finished).values()]
    before = begin_again(project, stage)
    for limit in {0, max(sizes, default=1) - 1}:
        with disk_full_after(limit):
            ended = stage.run(project)
        refused(ended, 1, *files_below(finished), "psld-")  # or a temporary folder
        check_nothing_lost(project, stage, before, finished)
    check_again(project, stage, before, finished)


FAILURES = (
    OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
    MemoryError("Unable to allocate 1.00 TiB"),
)


def test_every_rename_fails_once(project, finished, stage: Stage, monkeypatch):
    """After each number of renames, the next rename fails, by turns due to a quota or to memory."""
    said = [*files_below(finished), "psld-"], ["out of memory"]
    before = begin_again(project, stage)
    replace = Path.replace
    for position in range(20):
        renamed = 0

        def fail(path: Path, target: Path, position: int = position) -> Path:
            nonlocal renamed
            renamed += 1
            if renamed > position:
                raise FAILURES[position % 2]
            return replace(path, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", fail)
            ended = stage.run(project)
        if renamed <= position:
            break
        refused(ended, 1, *said[position % 2])
        check_nothing_lost(project, stage, before, finished)
    assert 0 < position < 20
    check_again(project, stage, before, finished)


def test_read_only_folder(project, finished, stage: Stage):
    """Each folder to which the command writes is made read-only, one after the other."""
    names = {str(Path(name).parent) for name in files_below(finished) if stage.owns(name)}
    for name in sorted(names):
        before = begin_again(project, stage)
        with read_only(project / name):
            ended = stage.run(project)
        refused(ended, 2, name)
        check_nothing_lost(project, stage, before, finished)
        check_again(project, stage, before, finished)
