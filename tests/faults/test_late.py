"""A slow shared file system: what another machine wrote shows late, or at first without content."""

import contextlib
import time
from fnmatch import fnmatch
from types import SimpleNamespace

import pytest

from psld.grid.workflow import Workflow
from tests.commands import succeeded
from tests.faults.checks import begin_again, check_again, check_nothing_lost
from tests.faults.stages import RECORD, Stage

pytestmark = pytest.mark.slow


AT_ONCE = ("*/weights.safetensors", "*/features.safetensors", "starts/*", "results/*.safetensors")
"""Files that no job reads before another one, which was written later."""


def declared(workflow: Workflow, stage: Stage) -> list[str]:
    """The inputs of the stage's rule that Snakemake waits for (`latency-wait`)."""
    wildcards = SimpleNamespace(grid="mine", figure="shown", model="small", sampler="few-8")
    match stage.name:
        case "figure":
            return workflow.figure(wildcards).inputs
        case "certify":
            return workflow.grid(wildcards.grid).results
        case "evaluate_cell":
            return workflow.cell(wildcards).records
    return []


@pytest.mark.parametrize("state", ["absent", "empty"])
def test_files_that_show_late(project, finished, stage: Stage, state: str, monkeypatch):
    """In a Slurm job, a command waits for datasets, manifests and shards, which it reads first.

    Snakemake waits for results and figures, which may be missing by right. A user's own files are
    refused.
    """
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    with contextlib.chdir(project):
        inputs = declared(Workflow.load(), stage)
    for name, maker in stage.inputs.items():
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
            ended = stage.run(project)
        path.write_bytes(content)
        if waits:
            succeeded(ended)
            assert len(waits) == 2
            assert name in ended.stdout
            check_nothing_lost(project, stage, before, finished)
            assert stage.result(project) == stage.result(finished)
        elif not maker:
            assert ended.returncode == 2
            assert ended.stderr.count("\n") == 1
            check_nothing_lost(project, stage, before, finished)
        elif name not in RECORD:  # a certificate may lack a record
            assert name in inputs, name
        check_again(project, stage, before, finished)
