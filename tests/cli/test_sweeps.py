"""Sweeps by hand: names, folders and groups of their jobs, and errors before any job starts."""

import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import ClassVar

import hydra_plugins
import pytest
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from omegaconf import OmegaConf

from psld.commands.composed import Announcement
from psld.training.loop import Log
from psld.utils.errors import UserError
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


def sweep(folder: Path, *overrides: str) -> Finished:
    return call(folder, "train", "--multirun", *RECIPE, *overrides)


def manifests(folder: Path) -> dict[str, dict]:
    """What was trained, by its folder."""
    paths = sorted(folder.glob("models/by-hand/*/manifest.json"))
    return {path.parent.name: json.loads(path.read_text()) for path in paths}


def test_each_job_has_the_name_of_what_it_does(folder):
    succeeded(sweep(folder, "process.gamma=0,0.01", "training.seed=1,2", "runs=elsewhere"))
    names = [f"psld-gamma-{gamma}-seed-{seed}" for gamma in ("0", "0.01") for seed in (1, 2)]
    assert list(manifests(folder)) == names
    for name, manifest in manifests(folder).items():
        assert (manifest["name"], manifest["grid"]) == (name, "sweep-gamma-seed")
        assert manifest["run"].startswith(f"elsewhere/{name}-")
        settings = manifest["settings"]
        values = settings["process"]["gamma"], settings["training"]["seed"]
        assert [str(value).removesuffix(".0") for value in values] == name.split("-")[2::2]
    (left,) = (folder / "elsewhere" / "sweeps").iterdir()
    assert [path.name for path in left.iterdir()] == ["multirun.yaml"], "all that Hydra leaves"
    (left / "multirun.yaml").unlink()
    assert {path.name for path in folder.iterdir() if path.suffix == ""} == {"elsewhere", "models"}


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["process=vp-sde,cld"], ["cld", "vp-sde"]),
        (["process=cld", "training.seed=range(2)"], ["cld-seed-0", "cld-seed-1"]),
        (["name=mine", "process.gamma=0,1e-3"], ["mine-gamma-0", "mine-gamma-0.001"]),
        (["name=a,b"], ["a", "b"]),
        (["wandb.project='Γ','b'"], ["psld-project-", "psld-project-b"]),
        (
            ["network.channel_multipliers=[1,2],[1,1]"],
            ["psld-channel_multipliers-1_1", "psld-channel_multipliers-1_2"],
        ),
    ],
)
def test_names(folder, monkeypatch, overrides, names):
    jobs = []
    skip = lambda settings, *_: jobs.append(settings) or 0.0  # noqa: E731
    monkeypatch.setattr("psld.commands.training.run_training", skip)
    succeeded(sweep(folder, "grid_name=mine", *overrides))
    assert sorted(job.output for job in jobs) == [f"models/by-hand/{name}" for name in names]
    assert sorted(job.name for job in jobs) == names
    assert {job.grid_name for job in jobs} == {"mine"}


def test_a_sweep_that_is_given_again_trains_what_is_missing(folder):
    succeeded(sweep(folder, "training.seed=1,2"))
    before = files_below(folder / "models")
    again = succeeded(sweep(folder, "training.seed=1,2,3"))
    assert again.stdout.count("step 3/3") == 1
    after = files_below(folder / "models")
    assert {name: after[name] for name in before} == before


class Climbing(Sweeper):
    """Halves the learning rate after each job, as sweepers that optimize choose by results."""

    __module__ = "hydra_plugins.climbing"  # Hydra takes plugins from there alone.
    losses: ClassVar[list[float]] = []

    def __init__(self, params):
        [(self.key, self.value)] = params.items()

    def setup(self, **setup):
        self.launcher = Plugins.instance().instantiate_launcher(**setup)

    def sweep(self, arguments):
        for number in range(2):
            word = f"{self.key}={float(self.value) / 2**number}"
            [job] = self.launcher.launch([[*arguments, word]], initial_job_idx=number)
            self.losses.append(job.return_value)


def test_a_sweeper_that_optimizes_gets_the_last_loss_of_each_job(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "hydra_plugins.climbing", sys.modules[__name__])
    monkeypatch.setattr(hydra_plugins, "climbing", sys.modules[__name__], raising=False)
    Plugins.instance().register(Climbing)
    config = folder / "configs/hydra/sweeper/climbing.yaml"
    config.parent.mkdir(parents=True)
    config.write_text(
        "_target_: hydra_plugins.climbing.Climbing\nparams: {training.learning_rate: 2e-3}\n"
    )
    succeeded(sweep(folder, "hydra/sweeper=climbing"))
    names = ["psld-learning_rate-0.001", "psld-learning_rate-0.002"]
    assert list(manifests(folder)) == names
    paths = (folder / "models/by-hand" / name / "history.json" for name in reversed(names))
    histories = [json.loads(path.read_text())["entries"] for path in paths]
    assert Climbing.losses == [history[-1]["loss"] for history in histories]


# --- what is wrong --------------------------------------------------------------------------------


def test_a_wrong_job_is_one_line(folder, monkeypatch):
    finished = sweep(folder, "process.gamma=much,0")
    assert finished.returncode == 2
    first, last = finished.stderr.splitlines()
    assert first.startswith("error: psld-gamma-much: configs/train.yaml: process.gamma")
    assert last == "error: 1 of the sweep's jobs failed"
    assert list(manifests(folder)) == ["psld-gamma-0"], "the others go on"
    refused(sweep(folder, "process=absent,cld"), 2, "absent")
    refused(sweep(folder, "process.gama=1,2"), 2, "process.gama (is process.gamma meant?);")
    monkeypatch.setenv("PATH", "/nowhere")
    without_slurm = sweep(folder, "hydra/launcher=submitit_slurm", "training.seed=1,2")
    refused(without_slurm, 2, "no sbatch here")


def test_the_jobs_after_one_that_fails_are_run(folder):
    """A learning rate that makes the loss infinite shows in the training alone."""
    finished = sweep(folder, "training.learning_rate=1e30,1e-3", "training.steps=20")
    assert finished.returncode == 1
    first, last = finished.stderr.splitlines()
    assert first.startswith("error: psld-learning_rate-1e30: NaN or infinity")
    assert last == "error: 1 of the sweep's jobs failed"
    assert list(manifests(folder)) == ["psld-learning_rate-0.001"]


def test_a_signal_ends_the_whole_sweep(folder):
    """And the jobs go on when it is given again."""

    class Interrupting(Log):
        def save(self, history):
            super().save(history)
            if signal.getsignal(signal.SIGINT) != signal.default_int_handler:  # not a second time
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("psld.training.run.Log", Interrupting)
        interrupted = sweep(folder, "training.seed=1,2", "training.checkpoint_every=1")
    assert interrupted.returncode == 130
    assert interrupted.stderr.startswith("error: psld-seed-1: stopped by SIGINT")
    assert interrupted.stderr.count("\n") == 1
    assert manifests(folder) == {}
    succeeded(sweep(folder, "training.seed=1,2"))
    assert list(manifests(folder)) == ["psld-seed-1", "psld-seed-2"]


# --- next to each other ---------------------------------------------------------------------------


@pytest.mark.slow
def test_jobs_in_processes_of_their_own(folder):
    """One of the first three fails; the same sweep again does the rest."""
    words = ("--multirun", "hydra/launcher=submitit_local", *RECIPE, "training.steps=20")
    finished = run(folder, command("train", *words, "training.learning_rate=1e30,1e-3,2e-3"))
    assert finished.returncode == 1
    last = finished.stderr.splitlines()[-1]
    assert last.startswith("error: a job of the sweep failed: psld-learning_rate-1e30: ")
    assert "Traceback" not in finished.stderr
    names = ["psld-learning_rate-0.001", "psld-learning_rate-0.002"]
    assert list(manifests(folder)) == names
    before = files_below(folder / "models")
    again = succeeded(run(folder, command("train", *words, "training.learning_rate=1e-3,2e-3")))
    assert again.stderr == ""
    assert files_below(folder / "models") == before


@pytest.mark.parametrize("mode", [None, 0o770])
def test_only_the_user_may_write_where_jobs_find_their_pickles(tmp_path, mode):
    sweep = tmp_path / "sweeps" / "mine"
    if mode:
        sweep.mkdir(parents=True)
        sweep.chmod(mode)
    launcher = {"submitit_folder": f"{sweep}/%j", "_target_": "LocalLauncher"}
    config = OmegaConf.create({"hydra": {"launcher": launcher, "sweep": {"dir": str(sweep)}}})
    with pytest.raises(UserError, match="chmod 700") if mode else contextlib.nullcontext():
        Announcement().on_multirun_start(config)
    assert sweep.stat().st_mode & 0o777 == (mode or 0o700)
