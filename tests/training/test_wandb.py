"""A training's run in wandb after any kind of end: each step once, and the machine's metrics."""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from unittest import mock

import psutil
import pytest
from wandb.sdk.mailbox import MailboxClosedError

from psld.config.compose import compose_content
from psld.config.settings import parse
from psld.training import wandb_log
from psld.training.settings import TrainSettings
from psld.training.state import Checkpoints
from psld.training.wandb_log import WandbLog
from psld.utils.errors import RunError
from tests.commands import TINY, call, command, refused, run, run_directory, started, succeeded
from tests.offline_runs import offline_runs

EVERY, STEPS = 20, 160
SETTINGS = (
    *TINY,
    f"training.steps={STEPS}",
    f"training.checkpoint_every={EVERY}",
    f"training.log_every={EVERY}",
    "training.preview_every=80",
    "wandb.mode=offline",
)


def last_step(folder: Path) -> int:
    runs = list(folder.glob("runs/*/checkpoints"))
    return max(Checkpoints(runs[0]).steps(), default=0) if runs else 0


def live(folder: Path, training: list[str], checkpoints: int, end: signal.Signals) -> int:
    """Train for some checkpoints, end by a signal; the step of the last checkpoint."""
    with started(folder, training) as process:
        until = last_step(folder) + EVERY * checkpoints
        while last_step(folder) < until:
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        process.send_signal(end)
        process.communicate(timeout=300)
    return last_step(folder)


def lose_the_end(file: Path) -> None:
    """From the last step on: as a machine that goes down loses what it has not written."""
    content = file.read_bytes()
    file.write_bytes(content[: content.rindex(b"grad_norm")])


@pytest.mark.slow
def test_a_run_of_three_lives_has_each_step_once(digits, tmp_path):
    """The first is killed before wandb has written anything, of the second the end is lost."""
    training = command("train", *SETTINGS, f"data={digits}")
    killed_at = live(tmp_path, training, checkpoints=2, end=signal.SIGKILL)
    assert killed_at >= 2 * EVERY
    folder = run_directory(tmp_path)
    [first] = offline_runs(folder)
    first.file.write_bytes(b"")  # wandb writes every 15 seconds, which may have passed
    stopped_at = live(tmp_path, training, checkpoints=2, end=signal.SIGTERM)
    _, second = offline_runs(folder)
    lose_the_end(second.file)
    assert 0 < len(offline_runs(folder)[1].history) < len(second.history)
    succeeded(run(tmp_path, training))

    lives = offline_runs(folder)
    steps = [item["_step"] for life in lives for item in life.history]
    assert steps == sorted({*range(EVERY, STEPS + 1, EVERY), stopped_at})
    assert all(item["loss"] > 0 for life in lives for item in life.history)
    [run_id] = {life.start["run_id"] for life in lives if life.records}
    assert run_id == (folder / "wandb-id").read_text().strip()


IMPATIENT = (
    "from psld.training import wandb_log; from psld.commands.main import main; "
    "wandb_log.END_SECONDS = 2; main()"
)


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (signal.SIGTERM, "the training goes on without it"),
        pytest.param(signal.SIGSTOP, "wandb: no end within 2 s", marks=pytest.mark.slow),
    ],
)
def test_a_training_outlives_its_wandb(digits, tmp_path, end, said):
    """As where Slurm signals every process of a job, or the memory is short."""
    training = [sys.executable, "-c", IMPATIENT, *command("train", *SETTINGS)[3:]]
    with started(tmp_path, [*training, f"data={digits}"]) as process:
        while last_step(tmp_path) < EVERY:
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        # There may be other children for a moment.
        children = psutil.Process(process.pid).children()
        [writer] = [child for child in children if child.name() == "wandb-core"]
        writer.send_signal(end)
        printed, complaints = process.communicate(timeout=300)
    assert process.returncode == 0, complaints
    assert printed.count(said) == 1
    assert f"step {STEPS}/{STEPS}" in printed


def test_what_was_uploaded_and_cleaned_away_is_not_logged_again(tmp_path):
    history = [{"step": step, "loss": 1.0} for step in (20, 40, 60)]
    with (
        mock.patch.dict(os.environ),  # wandb names its service to later processes
        log_of(tmp_path / "run", step=40) as log,
    ):
        log.saved(history)
    [logged] = offline_runs(tmp_path / "run")
    assert [item["_step"] for item in logged.history] == [60]


def log_of(folder: Path, *overrides: str, step: int = 0) -> WandbLog:
    content = compose_content("train", (*SETTINGS, *overrides), "test")
    settings = parse(TrainSettings, content, "test")
    return WandbLog(settings, folder, "train", step=step, make_preview=lambda _: {})


@pytest.mark.parametrize("step", [0, 40])
@pytest.mark.parametrize("error", [RunError("wandb: timed out"), MailboxClosedError(), OSError()])
def test_a_training_goes_on_without_a_wandb_that_does_not_come_up(
    tmp_path, monkeypatch, capsys, error, step
):
    def unreachable(*_, **__):
        raise error

    monkeypatch.setattr(wandb_log, "start_run", unreachable)
    with log_of(tmp_path, step=step) as log:
        log.saved([{"step": 60, "loss": 1.0}])
    said = capsys.readouterr().out
    assert said.startswith("wandb: ")
    assert said.endswith("; the training goes on without it\n")
    assert said.count("\n") == 1


class StuckRun:
    """A run of wandb that never returns from `log`, and knows which thread called."""

    def __init__(self) -> None:
        self.callers: list[str] = []
        self.released = threading.Event()

    def log(self, values: dict, step: int) -> None:
        self.callers.append(threading.current_thread().name)
        self.released.wait()

    def finish(self, exit_code: int) -> None:
        """Nothing is left to do."""


def test_the_loop_never_waits_for_wandb(digits, tmp_path, monkeypatch):
    """All its steps are made while wandb is stuck in the first call."""
    run = StuckRun()
    monkeypatch.setattr("wandb.init", lambda **_: run)
    monkeypatch.setattr(wandb_log, "END_SECONDS", 0.1)
    monkeypatch.setattr(wandb_log, "kill_service", lambda: None)
    finished = succeeded(call(tmp_path, "train", *SETTINGS, f"data={digits}"))
    run.released.set()
    assert f"step {STEPS}/{STEPS}" in finished.stdout
    assert "wandb: no end within 0.1 s" in finished.stdout
    assert run.callers == ["wandb"]


def test_system_metrics_are_logged(digits, tmp_path):
    succeeded(run(tmp_path, command("train", *SETTINGS, f"data={digits}")))
    [logged] = offline_runs(run_directory(tmp_path))
    measured = {key for stats in logged.of_kind("stats") for key in stats["item"]}
    assert {"proc.memory.rssMB", "memory_percent"} <= measured
    assert logged.of_kind("environment")


def test_nobody_logged_in_is_one_line(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    online = command("train", *SETTINGS, f"data={digits}", "wandb.mode=online")
    refused(run(tmp_path, online), 2, "wandb: ", "wandb login")
