"""Trainings and wandb: files for a later upload, and live runs."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import wandb
from PIL import Image

from psld.models import previews
from psld.training.files import HISTORY, TrainingHistory, WandbRun, preview_path
from psld.training.state import Checkpoints
from psld.training.wandb_runs import live_run, log_new_steps
from tests.commands import TINY, call, command, refused, run, run_directory, started, succeeded
from tests.report.server import WandbServer, wandb_server
from tests.report.trainings import write_training
from tests.training.test_settings import train_settings

EVERY, STEPS = 20, 160
SETTINGS = (
    *TINY,
    f"training.steps={STEPS}",
    f"training.checkpoint_every={EVERY}",
    f"training.log_every={EVERY}",
    "training.preview_every=80",
)
SHORT = (
    *TINY,
    "training.steps=6",
    "training.checkpoint_every=2",
    "training.log_every=2",
    "training.preview_every=3",
)


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with wandb_server() as server:
        yield server


def test_a_training_that_is_not_online_imports_no_wandb(digits, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.delitem(sys.modules, "psld.training.wandb_runs", raising=False)
    few = previews.SAMPLER.model_copy(update={"steps": 2})
    monkeypatch.setattr(previews, "SAMPLER", few)
    before = time.time()
    succeeded(call(tmp_path, "train", *SHORT, f"data={digits}", "wandb.mode=offline"))
    folder = run_directory(tmp_path)
    entries = TrainingHistory.read(folder / HISTORY).entries
    assert [entry.step for entry in entries] == [2, 3, 4, 6]
    times = [before, *(entry.time for entry in entries), time.time()]
    assert times == sorted(times)
    assert WandbRun.read(folder).id.startswith(folder.name)
    assert {path.name for path in folder.glob("previews/*")} == {"3.png", "6.png"}
    assert Image.open(preview_path(folder, 3)).width == 8 * 68 + 4, "8 samples in a row"


def last_step(folder: Path) -> int:
    runs = list(folder.glob("runs/*/checkpoints"))
    return max(Checkpoints(runs[0]).steps(), default=0) if runs else 0


def live(folder: Path, training: list[str], end: signal.Signals) -> int:
    """Train until a signal after two checkpoints; return the step of the last checkpoint."""
    with started(folder, training) as process:
        until = last_step(folder) + 2 * EVERY
        while last_step(folder) < until:
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        process.send_signal(end)
        process.communicate(timeout=300)
    return last_step(folder)


@pytest.mark.slow
def test_a_run_with_two_restarts_has_each_step_once(digits, tmp_path, server):
    """wandb may lose the last steps of the first run, which is killed; the second run adds them."""
    training = command("train", *SETTINGS, f"data={digits}", "wandb.mode=online")
    live(tmp_path, training, signal.SIGKILL)
    stopped_at = live(tmp_path, training, signal.SIGTERM)
    [(run_id, online)] = server.runs.items()
    assert online.exit_code == 1
    assert succeeded(run(tmp_path, training)).stdout.count("wandb") == 0
    assert list(server.runs) == [run_id] == [WandbRun.read(run_directory(tmp_path)).id]
    assert online.exit_code == 0
    assert online.steps == sorted({*range(EVERY, STEPS + 1, EVERY), stopped_at})
    times = {
        e.step: e.time for e in TrainingHistory.read(run_directory(tmp_path) / HISTORY).entries
    }
    assert {step: row["_timestamp"] for step, row in online.history.items()} == times
    assert online.stats > 0, "system metrics"
    names = {"displayName": "psld", "groupName": "by-hand", "jobType": "train", "project": "psld"}
    assert names.items() <= online.options.items()
    assert online.config["process"]["gamma"] == 0.01
    assert online.logged_file("samples") == preview_path(run_directory(tmp_path), 160).read_bytes()


@pytest.mark.slow
def test_a_training_continues_when_wandb_dies(digits, tmp_path, server):
    """The process of wandb dies if Slurm signals every process of a job, or if memory runs out."""
    without_previews = (*SETTINGS, "training.preview_every=null", f"data={digits}")
    training = command("train", *without_previews, "wandb.mode=online")
    with started(tmp_path, training) as process:
        while not server.runs:
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        # Other child processes may exist briefly.
        children = psutil.Process(process.pid).children()
        [core] = [child for child in children if child.name() == "wandb-core"]
        core.terminate()
        printed, complaints = process.communicate(timeout=300)
    assert process.returncode == 0, complaints
    assert printed.count("`psld wandb sync` uploads the missing steps") == 1
    assert f"step {STEPS}/{STEPS}" in printed


def test_the_loop_never_waits_for_wandb(digits, tmp_path, monkeypatch):
    """The training finishes all steps while wandb hangs in its first call."""

    class StuckRun:
        step = 0

        def log(self, values: dict, step: int, commit: bool) -> None:
            if step == 2:
                while last_step(tmp_path) < 6:
                    time.sleep(0.01)

        def finish(self, exit_code: int | None = None) -> None:
            """Do nothing."""

    monkeypatch.setattr("wandb.init", lambda **_: StuckRun())
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    without_previews = (*SHORT, "training.preview_every=null", f"data={digits}")
    succeeded(call(tmp_path, "train", *without_previews, "wandb.mode=online"))


class NotedRun:
    """A run in wandb that already has some steps and records the entries that it gets."""

    def __init__(self, step: int = 0) -> None:
        self.step = step
        self.logged: dict[int, dict] = {}
        self.exit_codes: list[int | None] = []

    def log(self, values: dict, step: int, commit: bool) -> None:
        assert commit
        self.logged[step] = values

    def finish(self, exit_code: int | None = None) -> None:
        self.exit_codes.append(exit_code)


@pytest.mark.parametrize(("step", "new"), [(0, [20, 40, 60]), (40, [40, 60]), (61, [])])
def test_missing_steps_are_logged(tmp_path, step, new):
    """`step` is the first step that wandb accepts; entries have values, time and preview."""
    run, online = write_training(tmp_path, [20, 40, 60]), NotedRun(step)
    log_new_steps(online, run)
    assert list(online.logged) == new
    for logged, values in online.logged.items():
        assert values["loss"] == 1 / logged
        assert values["_timestamp"] == 1e9 + logged
        assert ("samples" in values) == (logged == 20)
        assert not {"step", "time"} & values.keys()


@pytest.mark.parametrize("fails", [False, True])
def test_a_training_resumes_its_wandb_run_and_reports_its_exit_code(tmp_path, monkeypatch, fails):
    run, online, options = write_training(tmp_path, [20]), NotedRun(), {}
    monkeypatch.setattr("wandb.init", lambda **given: options.update(given) or online)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with suppress(ZeroDivisionError), live_run(run) as log:
        log(None)
        _ = 1 / (not fails)
    assert online.exit_codes[0] == fails
    assert list(online.logged) == [20]
    assert (options["id"], options["resume"], options["mode"]) == ("model-id", "allow", "online")
    assert options["config"] == {"process": {"gamma": 0.02}}


def test_a_resumed_training_keeps_the_id_of_its_run(tmp_path):
    settings = train_settings("wandb.entity=us", "wandb.project=them")
    WandbRun.write(tmp_path / "run", settings)
    first = WandbRun.read(tmp_path / "run")
    WandbRun.write(tmp_path / "run", settings)
    assert WandbRun.read(tmp_path / "run") == first
    assert first.id.startswith("run-")
    assert (first.name, first.group, first.job_type) == ("x", "x", "train")
    assert (first.project, first.entity) == ("them", "us")
    WandbRun.write(tmp_path / "other", settings)
    assert WandbRun.read(tmp_path / "other").id != first.id


def test_a_missing_login_is_reported_in_one_line(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    wandb.teardown()
    online = (*SETTINGS, f"data={digits}", "wandb.mode=online")
    refused(call(tmp_path, "train", *online), 2, "wandb: ", "wandb login")


SLOWLY = [
    ({"delay": 1e6}, {}),
    ({"refuses": "/", "status": 500}, {}),
    ({}, {"refuses": "file_stream", "status": 401}),
    ({}, {"refuses": "PUT /file", "status": 500}),
    ({}, {"delay": 1e6}),
]
"""Pairs of server failures: the first at the start, the second after the run has started."""


@pytest.mark.parametrize(
    ("first", "later"),
    [
        ({"refuses": "/", "status": 401}, {}),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in SLOWLY),
    ],
    ids=str,
)
def test_a_failing_server_is_reported_in_one_line(tmp_path, server, capsys, first, later):
    """The training writes three log entries, which `psld wandb sync` uploads later."""
    vars(server).update(first)
    with live_run(write_training(tmp_path, [20])) as log:
        deadline = time.monotonic() + 60
        while later and not server.runs and time.monotonic() < deadline:
            time.sleep(0.01)
        vars(server).update(later)
        for last in (20, 40, 60):
            write_training(tmp_path, range(20, last + 1, 20))
            log(None)
    said = capsys.readouterr().out
    assert said.count("\n") <= 1
    vars(server).update(refuses="", delay=0)
    wandb.teardown()
    succeeded(call(tmp_path, "wandb", "sync", "grid_name=demo"))
    [online] = server.runs.values()
    assert online.steps == [20, 40, 60]
