"""Faults of writing: a full disk, a quota that ends at the last moment, a folder without rights."""

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from tests.commands import disk_full_after, files_below
from tests.faults.checks import begin_again, check_again, check_nothing_lost, refused
from tests.faults.matrix import fault
from tests.faults.stages import Stage


@fault("full disk")
def test_full_disk(project, finished, stage: Stage):
    """The first file that is not empty fails, then the largest one."""
    sizes = [len(content) for content in stage.made(finished).values()]
    before = begin_again(project, stage)
    for limit in {0, max(sizes, default=1) - 1}:
        with disk_full_after(limit):
            ended = stage.run(project)
        refused(ended, 1, *files_below(finished), "psld-")  # or a temporary folder
        check_nothing_lost(project, stage, before, finished)
    check_again(project, stage, before, finished)


@fault("full quota at rename")
def test_full_quota_at_rename(project, finished, stage: Stage, monkeypatch):
    """Every rename of the command fails once."""
    before = begin_again(project, stage)
    replace = Path.replace
    for position in range(20):
        renamed = 0

        def fail(path: Path, target: Path, position: int = position) -> Path:
            nonlocal renamed
            renamed += 1
            if renamed > position:
                raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(path))
            return replace(path, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", fail)
            ended = stage.run(project)
        if renamed <= position:
            break
        refused(ended, 1, *files_below(finished), "psld-")
        check_nothing_lost(project, stage, before, finished)
    assert 0 < position < 20
    check_again(project, stage, before, finished)


@fault("read-only folder")
def test_read_only_folder(project, finished, stage: Stage):
    """Each folder that the command writes to, one after the other."""
    names = {str(Path(name).parent) for name in files_below(finished) if stage.owns(name)}
    for name in sorted(names):
        before = begin_again(project, stage)
        with read_only(project / name):
            ended = stage.run(project)
        refused(ended, 2, name)
        check_nothing_lost(project, stage, before, finished)
        check_again(project, stage, before, finished)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Take the right to write into a folder away, even from root."""
    mode = folder.stat().st_mode
    folder.chmod(0o555)
    try:
        with without_rights_of_root():
            yield
    finally:
        folder.chmod(mode)


CAP_DAC_OVERRIDE, PR_SET_SECUREBITS, SECBIT_NOROOT = 1, 28, 1  # linux/capability.h, prctl.h


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


@contextlib.contextmanager
def without_rights_of_root() -> Iterator[None]:
    """Take the right of root to write anywhere from this thread, and from what it starts.

    See capset(2) and prctl(2).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    header = _Header(0x20080522, 0)
    kept = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable, twice
    assert libc.capget(ctypes.byref(header), kept) == 0
    fewer = (ctypes.c_uint32 * 6)(*kept)
    fewer[0] &= ~(1 << CAP_DAC_OVERRIDE)
    libc.prctl(PR_SET_SECUREBITS, SECBIT_NOROOT, 0, 0, 0)  # Others than root may not, nor need to.
    assert libc.capset(ctypes.byref(header), fewer) == 0
    try:
        yield
    finally:
        assert libc.capset(ctypes.byref(header), kept) == 0
        libc.prctl(PR_SET_SECUREBITS, 0, 0, 0, 0)
