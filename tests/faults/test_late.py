"""A slow shared file system: files of another machine become visible late, or empty at first."""

import time
from fnmatch import fnmatch
from types import SimpleNamespace

import pytest

from tests.commands import succeeded
from tests.faults.checks import begin_again, check_again, check_nothing_lost
from tests.faults.stages import Stage

pytestmark = pytest.mark.slow

AT_ONCE = ("*/weights.safetensors", "*/features.safetensors", "starts/*")
"""Patterns of files that a command reads only after a file that was written later."""


@pytest.mark.parametrize("state", ["absent", "empty"])
def test_files_that_show_late(project, finished, stage: Stage, state: str, monkeypatch):
    """In a Slurm job, a command waits for the files that it reads first: datasets, manifests and
    shards.

    Snakemake itself waits for results and figures, because these files may legitimately be missing.
    """
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    for name in stage.inputs:
        if any(fnmatch(name, pattern) for pattern in AT_ONCE):
            continue
        before = begin_again(project, stage)
        path, content = project / name, (project / name).read_bytes()
        path.unlink() if state == "absent" else path.write_bytes(b"")
        waits = []

        def show(seconds: float, waits: list = waits, path=path, content: bytes = content) -> None:
            waits.append(seconds)
            if len(waits) == 2:
                path.write_bytes(content)

        with monkeypatch.context() as patch:
            clock = SimpleNamespace(sleep=show, monotonic=time.monotonic)
            patch.setattr("psld.utils.files.time", clock)
            ended = succeeded(stage.run(project))
        assert len(waits) == 2, name
        assert name in ended.stdout
        check_nothing_lost(project, stage, before, finished)
        check_again(project, stage, before, finished)
