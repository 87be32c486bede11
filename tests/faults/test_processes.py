"""The same command twice at the same time, too little memory, and a clock that is set back."""

import os
import signal
import time

import pytest

from tests.commands import succeeded
from tests.faults.checks import begin_again, check_again, check_nothing_lost, refused
from tests.faults.children import Moment, start, without_partials
from tests.faults.stages import STAGES, Stage

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("position", [0, 1])
def test_two_at_once(project, finished, stage: Stage, position: int):
    """The first process is paused before a rename until the second process waits or has ended."""
    before = begin_again(project, stage)
    first = start(stage, project, "first", Moment(signal.SIGSTOP, position))
    try:
        held = first.stopped()
        second = start(stage, project, "second")
        while second.process.is_alive() and "waiting for" not in second.said():
            time.sleep(0.01)
        if held:
            assert ("waiting for" in second.said()) == (stage.name == "train")
            with without_partials(project):
                check_nothing_lost(project, stage, before, finished)
            first.go_on()
        for ended in (first.ended(), second.ended()):
            succeeded(ended)
            assert ended.stderr == ""
            assert ended.stdout.count("waiting for") <= 1
    finally:
        first.process.kill()
    assert held or position > 0
    check_again(project, stage, before, finished)


@pytest.mark.parametrize(
    "stage",
    [stage for stage in STAGES if stage.name != "start"],
    ids=lambda stage: stage.name,
)
def test_no_memory_to_read_arrays_is_no_damage(project, finished, stage: Stage, monkeypatch):
    """No message advises to delete a checkpoint, and the records of shards are kept."""
    before = begin_again(project, stage)
    if stage.work:
        # A thread writes the checkpoints of a training; at this position, the first checkpoint
        # exists.
        position = 4 if stage.name == "train" else 2
        start(stage, project, moment=Moment(signal.SIGKILL, position)).ended()
    files = [*project.rglob("*.safetensors"), *project.rglob("*.pt")]
    arrays = {path: path.read_bytes() for path in files}

    def load(*_: object, **__: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("psld.utils.tensors.load", load)
        patch.setattr("torch.load", load)
        ended = stage.run(project)
    refused(ended, 1, "memory")
    assert "delete" not in ended.stderr
    assert arrays == {path: path.read_bytes() for path in arrays}
    check_nothing_lost(project, stage, before, finished)
    check_again(project, stage, before, finished)


def test_clock_set_back(project, finished, stage: Stage, monkeypatch):
    """All files have times in the future, and the clock runs backwards."""
    before = begin_again(project, stage)
    future = time.time() + 10**9
    for path in project.rglob("*"):
        if path.is_file():
            os.utime(path, (future, future))
    now = time.time()

    def backwards() -> float:
        nonlocal now
        now -= 10**6
        return now

    with monkeypatch.context() as patch:
        patch.setattr(time, "time", backwards)
        patch.setattr(time, "time_ns", lambda: int(1e9 * backwards()))
        ended = stage.run(project)
    succeeded(ended)
    assert ended.stderr == ""
    check_nothing_lost(project, stage, before, finished)
    assert stage.result(project) == stage.result(finished)
    check_again(project, stage, before, finished)
