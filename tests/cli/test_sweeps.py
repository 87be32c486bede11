"""Sweeps on the command line: names and folders of jobs, return values, and errors before the first
job starts.
"""

import json
import os
import signal
from pathlib import Path

import pytest
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher

from psld.training.loop import Log
from tests.commands import TINY, Finished, call, command, files_below, refused, run, succeeded

RECIPE = (*TINY, "training.steps=3", "data=digits.h5")

pytestmark = pytest.mark.filterwarnings(
    r"ignore:\s*'hydra/launcher/submitit_slurm' is validated against"
)


@pytest.fixture
def folder(tmp_path, digits) -> Path:
    for path in digits.parent.glob("digits.*"):
        (tmp_path / path.name).symlink_to(path)
    return tmp_path


BY_SEED = ("name=psld-seed-${training.seed}", "training.seed=1,2")


def sweep(folder: Path, *overrides: str) -> Finished:
    return call(folder, "train", "--multirun", *RECIPE, *overrides)


def manifests(folder: Path) -> dict[str, dict]:
    """Return the trained models, keyed by folder."""
    paths = sorted(folder.glob("models/by-hand/*/manifest.json"))
    return {path.parent.name: json.loads(path.read_text()) for path in paths}


@pytest.fixture
def losses(monkeypatch) -> list[float | None]:
    """Return the value that each job returns to Hydra, which an optimizing sweeper uses."""
    [launcher] = [p for p in Plugins.instance().discover(Launcher) if p.__name__ == "BasicLauncher"]
    losses, launch = [], launcher.launch

    def launch_and_note(*arguments, **job):
        jobs = launch(*arguments, **job)
        losses.extend(job.return_value for job in jobs)
        return jobs

    monkeypatch.setattr(launcher, "launch", launch_and_note)
    return losses


def test_each_job_has_its_own_name_and_returns_its_last_loss(folder, losses):
    """An invalid job prints one line, and the other jobs continue."""
    name = "name=psld-gamma-${process.gamma}"
    finished = sweep(folder, name, "process.gamma=much,0,0.01", "runs=elsewhere")
    assert finished.returncode == 2
    first, last = finished.stderr.splitlines()
    assert first.startswith("error: psld-gamma-much: psld train: process.gamma")
    assert last == "error: 1 of the sweep's jobs failed"
    assert list(manifests(folder)) == ["psld-gamma-0", "psld-gamma-0.01"]
    for (name, manifest), loss in zip(manifests(folder).items(), losses[1:], strict=True):
        assert (manifest["name"], manifest["grid"]) == (name, "by-hand")
        assert manifest["run"].startswith(f"elsewhere/{name}-")
        assert manifest["settings"]["process"]["gamma"] == float(name.removeprefix("psld-gamma-"))
        assert f"{name}:" in finished.stdout.splitlines()
        history = json.loads((folder / "models/by-hand" / name / "history.json").read_text())
        assert history["entries"][-1]["loss"] == loss
    assert losses[0] is None
    (left,) = (folder / "elsewhere" / "sweeps").iterdir()
    assert [path.name for path in left.iterdir()] == ["multirun.yaml"], "all that Hydra leaves"
    made = {path.name for path in folder.iterdir() if path.is_dir()}
    assert made - {".cache"} == {"elsewhere", "models"}


# --- what is wrong --------------------------------------------------------------------------------


def test_jobs_with_equal_names_keep_all_weights_in_their_run_directories(folder):
    """The model's folder has the weights of the last job, and a printed line says so."""
    finished = succeeded(sweep(folder, "training.seed=1,2"))
    [last] = manifests(folder).values()
    [first] = {path.parent for path in folder.glob("runs/*/model")} - {folder / last["run"]}
    line = "models/by-hand/psld: replaces the weights of another training, which stay in "
    assert f"{line}{first.relative_to(folder)}/model\n" in finished.stdout


def test_a_wrong_sweep_is_refused_in_one_line(folder):
    refused(sweep(folder, "process=absent,cld"), 2, "absent")
    wrong = sweep(folder, "name=a,b", "process.gama=1").stderr.splitlines()
    assert all(line.endswith("process.gama (is process.gamma meant?)") for line in wrong[:2])


def test_a_signal_ends_the_whole_sweep(folder):
    """The jobs resume when the sweep is started again."""

    class Interrupting(Log):
        def save(self, *given):
            super().save(*given)
            if signal.getsignal(signal.SIGINT) != signal.default_int_handler:  # not a second time
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("psld.training.run.Log", Interrupting)
        interrupted = sweep(folder, *BY_SEED, "training.checkpoint_every=1")
    assert interrupted.returncode == 130
    assert interrupted.stderr.startswith("error: psld-seed-1: stopped by SIGINT")
    assert interrupted.stderr.count("\n") == 1
    assert manifests(folder) == {}
    again = succeeded(sweep(folder, *BY_SEED[:1], "training.seed=1"))
    assert "resuming from step " in again.stdout
    assert list(manifests(folder)) == ["psld-seed-1"]


# --- next to each other ---------------------------------------------------------------------------


@pytest.mark.slow
def test_jobs_run_in_separate_processes(folder):
    """One of the first three jobs fails. A sweep of the other two jobs then has nothing to do."""
    words = ("--multirun", "hydra/launcher=submitit_local", *RECIPE, "training.steps=20")
    words += ("name=psld-${training.learning_rate}",)
    finished = run(folder, command("train", *words, "training.learning_rate=1e15,1e-3,2e-3"))
    assert finished.returncode == 1
    last = finished.stderr.splitlines()[-1]
    assert last.startswith("error: a job of the sweep failed: psld-1000000000000000.0: ")
    assert "Traceback" not in finished.stderr
    names = ["psld-0.001", "psld-0.002"]
    assert list(manifests(folder)) == names
    [pickles] = (folder / "runs/sweeps").iterdir()
    assert pickles.stat().st_mode & 0o777 == 0o700, "only the user may write what jobs run"
    before = files_below(folder / "models")
    again = succeeded(run(folder, command("train", *words, "training.learning_rate=1e-3,2e-3")))
    assert again.stderr == ""
    assert files_below(folder / "models") == before
