"""Sweeps by hand: names, folders and groups of their jobs, and errors before any job starts."""

import contextlib
import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from psld.commands.sweeps import Announcement
from psld.utils.errors import UserError
from tests.commands import TINY, Finished, call, command, files_below, refused, run, succeeded

RECIPE = (*TINY, "training.steps=3", "data=digits.h5")


@pytest.fixture
def folder(tmp_path) -> Path:
    succeeded(call(tmp_path, "prepare", "output=digits.h5"))
    return tmp_path


def sweep(folder: Path, *overrides: str) -> Finished:
    return call(folder, "train", "--multirun", *RECIPE, *overrides)


def manifests(folder: Path) -> dict[str, dict]:
    """What was trained, by its folder."""
    found = sorted(folder.glob("models/by-hand/*/manifest.json"))
    return {path.parent.name: json.loads(path.read_text()) for path in found}


def test_each_job_has_the_name_of_what_it_does(folder):
    succeeded(sweep(folder, "process.gamma=0,0.01", "training.seed=1,2"))
    trained = manifests(folder)
    assert list(trained) == [
        "psld-gamma-0-seed-1",
        "psld-gamma-0-seed-2",
        "psld-gamma-0.01-seed-1",
        "psld-gamma-0.01-seed-2",
    ]
    for name, manifest in trained.items():
        assert manifest["name"] == name
        assert manifest["grid"] == "sweep-gamma-seed"
        assert Path(manifest["run"]).name.startswith(f"{name}-")
        gamma, seed = name.split("-")[2], name.split("-")[4]
        assert manifest["settings"]["process"]["gamma"] == float(gamma)
        assert manifest["settings"]["training"]["seed"] == int(seed)


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
def test_names(folder, overrides, names):
    succeeded(sweep(folder, *overrides))
    assert list(manifests(folder)) == names


def test_a_sweep_that_starts_from_a_grids_model_is_no_part_of_the_grid(folder):
    given = ("training.seed=1,2", "--multirun", "model=demo/cld", *RECIPE)
    succeeded(call(folder, "train", *given))
    assert list(manifests(folder)) == ["cld-seed-1", "cld-seed-2"]
    assert {manifest["grid"] for manifest in manifests(folder).values()} == {"sweep-seed"}


def test_a_group_that_is_given_is_kept(folder):
    succeeded(sweep(folder, "training.seed=1,2", "grid_name=mine"))
    assert {manifest["grid"] for manifest in manifests(folder).values()} == {"mine"}


def test_a_guide(folder):
    given = ("network.channel_multipliers=[1,2]", "network.base_channels=8", "wandb.mode=disabled")
    overrides = (*given, "training.steps=2", "training.batch_size=8", "data=digits.h5")
    swept = "process=psld,vp-sde"
    succeeded(call(folder, "train_guide", "--multirun", *overrides, swept))
    found = sorted(path.name for path in (folder / "guides" / "by-hand").iterdir())
    assert found == ["guide-process-psld", "guide-process-vp-sde"]


def test_a_single_run_stays_as_it_is(folder):
    succeeded(call(folder, "train", *RECIPE))
    assert manifests(folder)["psld"]["grid"] == "by-hand"
    assert not (folder / "runs" / "sweeps").exists()


def test_what_hydra_leaves_lies_in_the_folder_of_runs(folder):
    succeeded(sweep(folder, "training.seed=1,2", "runs=elsewhere"))
    assert {path.name for path in folder.iterdir()} == {
        *("digits.h5", "digits.json", "digits.digest"),
        *("elsewhere", "models"),
    }
    (left,) = (folder / "elsewhere" / "sweeps").iterdir()
    assert [path.name for path in left.iterdir()] == ["multirun.yaml"]


def test_a_sweep_that_is_given_again_trains_what_is_missing(folder):
    succeeded(sweep(folder, "training.seed=1,2"))
    before = files_below(folder / "models")
    again = succeeded(sweep(folder, "training.seed=1,2,3"))
    assert again.stdout.count("step 3/3") == 1
    after = files_below(folder / "models")
    assert {name: after[name] for name in before} == before


# --- what is wrong --------------------------------------------------------------------------------


def test_a_bad_value_is_refused_before_anything_is_trained(folder):
    before = files_below(folder)
    finished = sweep(folder, "process.gamma=0,much")
    refused(finished, 2, "psld-gamma-much: ", "process.gamma", "no job of the sweep was started")
    refused(sweep(folder, "process=cld,absent"), 2, "absent")
    refused(sweep(folder, "speed=1,2"), 2, "speed")
    assert finished.stdout == ""
    assert files_below(folder) == before


def test_jobs_do_not_write_to_one_place(folder):
    refused(
        sweep(folder, "training.seed=1,2", "output=x"), 2, "psld-seed-2: output=x", "psld-seed-1"
    )
    succeeded(sweep(folder, "training.seed=1,2", "output=x/${training.seed}"))
    assert {path.name for path in (folder / "x").iterdir()} == {"1", "2"}


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
    code = """if True:
        import os, signal, sys
        from psld.training import loop
        from psld.commands.train import main

        class Interrupting(loop.Log):
            def save(self, history):
                super().save(history)
                if signal.getsignal(signal.SIGINT) != signal.default_int_handler:
                    os.kill(os.getpid(), signal.SIGINT)

        import psld.training.run
        psld.training.run.Log = Interrupting
        main()
    """
    recipe = ("--multirun", *RECIPE, "training.seed=1,2", "training.checkpoint_every=1")
    interrupted = run(folder, [*command("train")[:1], "-c", code, *recipe])
    assert interrupted.returncode == 130
    assert interrupted.stderr.startswith("error: psld-seed-1: stopped by SIGINT")
    assert interrupted.stderr.count("\n") == 1
    assert manifests(folder) == {}
    succeeded(sweep(folder, "training.seed=1,2"))
    assert list(manifests(folder)) == ["psld-seed-1", "psld-seed-2"]


# --- side by side ---------------------------------------------------------------------------------


@pytest.fixture
def local(folder):
    """A sweep through submitit_local; the processes it starts are this machine's own."""

    def sweep_side_by_side(*overrides: str) -> Finished:
        given = ("--multirun", "hydra/launcher=submitit_local", *RECIPE, *overrides)
        return run(folder, command("train", *given))

    return sweep_side_by_side


@pytest.mark.slow
def test_side_by_side(local, folder):
    finished = succeeded(local("training.seed=1,2"))
    assert finished.stderr == ""
    assert list(manifests(folder)) == ["psld-seed-1", "psld-seed-2"]
    before = files_below(folder / "runs")
    succeeded(local("training.seed=1,2"))
    after = files_below(folder / "runs")
    assert {name: after[name] for name in before} == before


@pytest.mark.slow
def test_side_by_side_with_one_that_fails(local, folder):
    finished = local("training.learning_rate=1e30,1e-3", "training.steps=20")
    assert finished.returncode == 1
    last = finished.stderr.splitlines()[-1]
    assert last.startswith("error: a job of the sweep failed: psld-learning_rate-1e30: ")
    assert "Traceback" not in finished.stderr
    assert list(manifests(folder)) == ["psld-learning_rate-0.001"]


@pytest.mark.filterwarnings(r"ignore:\s*'hydra/launcher/submitit_slurm' is validated against")
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


def test_without_slurm(folder, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    refused(
        sweep(folder, "hydra/launcher=submitit_slurm", "training.seed=1,2"), 2, "no sbatch here"
    )
