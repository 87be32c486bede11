"""Kill, stop and restart real trainings in separate processes."""

import itertools
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from psld.training.files import HISTORY, TrainingHistory
from psld.training.state import Checkpoints
from tests.commands import (
    TINY,
    command,
    files_below,
    refused,
    run,
    run_directory,
    started,
    succeeded,
)
from tests.training.small import check_equal

STEPS, EVERY = 120, 10
SETTINGS = (
    *TINY,
    "network.dropout=0.1",
    f"training.steps={STEPS}",
    f"training.checkpoint_every={EVERY}",
    f"training.log_every={EVERY}",
)


@pytest.fixture
def training(digits) -> list[str]:
    return command("train", *SETTINGS, f"data={digits}")


@pytest.fixture(scope="module")
def uninterrupted(digits, tmp_path_factory) -> Path:
    """The folder of the same training without interruption."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    succeeded(run(folder, command("train", *SETTINGS, f"data={digits}")))
    return folder


def checkpoints_of(folder: Path) -> Checkpoints:
    """Return the checkpoints of the training in `folder`, if it has a run directory."""
    runs = list((folder / "runs").glob("*"))
    return Checkpoints(runs[0] / "checkpoints" if runs else folder / "runs")


def last_checkpoint(folder: Path) -> dict[str, Any]:
    return torch.load(checkpoints_of(folder).path(STEPS))


def check_same_training(folder: Path, uninterrupted: Path) -> None:
    """Assert that final weights and checkpoints are bit-identical and no partial file remains."""
    weights = "models/by-hand/psld/weights.safetensors"
    assert (folder / weights).read_bytes() == (uninterrupted / weights).read_bytes()
    check_equal(last_checkpoint(folder), last_checkpoint(uninterrupted))
    assert not [name for name in files_below(folder) if name.endswith(".partial")]


def wait_for_checkpoints(process: subprocess.Popen, folder: Path, count: int) -> None:
    """Wait until the training has written `count` more checkpoints."""
    start = max(checkpoints_of(folder).steps(), default=0)
    while max(checkpoints_of(folder).steps(), default=0) < start + EVERY * count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def kill_while_writing(process: subprocess.Popen, folder: Path) -> None:
    """Freeze the training with half a checkpoint on disk, then kill it."""
    wait_for_checkpoints(process, folder, count=1)
    writing = checkpoints_of(folder).folder
    for _ in itertools.count():
        if any(entry.name.endswith(".partial") for entry in os.scandir(writing)):
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            if list(writing.glob(".*.partial")):
                break
            process.send_signal(signal.SIGCONT)
        assert process.poll() is None, process.communicate()
    kill(process)
    assert list(writing.glob(".*.partial"))


def kill(process: subprocess.Popen) -> None:
    process.kill()
    assert process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_a_training_killed_at_many_moments_ends_with_the_same_weights(
    training, uninterrupted, tmp_path
):
    """Some kills come before the first step or before torch is imported; the last run finishes."""
    for life in itertools.count():
        with started(tmp_path, training) as process:
            try:
                process.wait(0.5 * 1.6**life)
            except subprocess.TimeoutExpired:
                kill(process)
            else:
                assert process.returncode == 0, process.communicate()
                break
    assert life >= 3
    check_same_training(tmp_path, uninterrupted)


@pytest.mark.slow
def test_a_training_that_is_killed_stopped_and_resumed_ends_with_the_same_weights(
    training, uninterrupted, tmp_path
):
    """After a signal, the training writes a checkpoint and prints one line. The next run waits for
    the lock and resumes."""
    logged = [*training, "training.preview_every=60"]
    with started(tmp_path, logged) as process:
        kill_while_writing(process, tmp_path)
    with started(tmp_path, logged) as process:
        wait_for_checkpoints(process, tmp_path, count=2)
        process.send_signal(signal.SIGSTOP)
        with started(tmp_path, logged) as third:
            waiting = third.stdout.readline()
            assert f"{run_directory(tmp_path).name}: another training is running there" in waiting
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGCONT)
            _, errors = process.communicate(timeout=300)
            assert not (tmp_path / "models").exists()
            printed, complaints = third.communicate(timeout=300)
    ended = subprocess.CompletedProcess(logged, process.returncode, stderr=errors)
    line = refused(ended, 128 + signal.SIGTERM, "stopped by SIGTERM; step ", "to go on")
    stopped_at = int(re.search(r"step (\d+) is saved", line)[1])
    assert 3 * EVERY <= stopped_at < STEPS
    assert third.returncode == 0, complaints
    assert f"resuming from step {stopped_at}: " in printed
    check_same_training(tmp_path, uninterrupted)
    check_history(tmp_path, stopped_at)


def check_history(folder: Path, stopped_at: int) -> None:
    """Assert that the history of the second run has no gap and no repeated step."""
    entries = TrainingHistory.read(run_directory(folder) / HISTORY).entries
    assert [entry.step for entry in entries] == sorted(
        {*range(EVERY, STEPS + 1, EVERY), stopped_at}
    )
    for entry in entries:
        assert entry.loss > 0
        assert entry.grad_norm > 0
        assert entry.images_per_second > 0
        assert entry.learning_rate == pytest.approx(1e-3)
    pictures = run_directory(folder).glob("previews/*.png")
    assert {int(path.stem) for path in pictures} == {60, 120}
