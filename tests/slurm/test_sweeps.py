"""A sweep as Slurm jobs: one job is warned and continues; a second call trains nothing."""

import subprocess
from pathlib import Path

import torch
from safetensors.torch import load_file

from psld.utils.files import read_json
from tests.commands import command
from tests.slurm.training import RECIPE, STEPS, Training

SEEDS = "training.seed=1,2", "name=psld-seed-${training.seed}"
DISTURBED, NAME = "training.seed=2", "psld-seed-2"


class Sweep(Training):
    """Two trainings on one rank each, as jobs of one array."""

    def command(self, *where: str, recipe: tuple[str, ...] = RECIPE) -> list[str]:
        launcher = ("--multirun", "hydra/launcher=submitit_slurm", *SEEDS)
        return command("train", *launcher, *where, *recipe, f"data={self.data}")

    def begun_by_name(self) -> dict[str, list[int]]:
        """Return the steps at which each training started or resumed."""
        files = sorted(self.folder.glob("runs/psld-*/lives.json"))
        return {
            file.parent.name.rpartition("-")[0]: [
                step for job in read_json(file).values() for step in job
            ]
            for file in files
        }

    def output(self) -> str:
        """Return the output of the jobs of all sweeps."""
        files = sorted(self.folder.glob("runs/sweeps/*/*/*_log.out"))
        return "".join(file.read_text() for file in files)


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / "models" / "by-hand" / name / "weights.safetensors")


def train_undisturbed(sweep: Sweep, folder: Path) -> None:
    """The same training as the disturbed training of the sweep, but on this machine."""
    train = command("train", *RECIPE, f"data={sweep.data}", DISTURBED)
    environment = {**sweep.environment, "OMP_NUM_THREADS": "1"}
    subprocess.run([*train, f"name={NAME}"], cwd=folder, env=environment, check=True)


def test_a_job_that_is_warned_goes_on(cluster, digits, tmp_path):
    """The disturbed job is the last job of its array, and has the number of the array."""
    sweep = Sweep(cluster, tmp_path / "sweep", digits)
    sweep.folder.mkdir()
    with sweep.launched() as launcher:
        sweep.wait(
            lambda: list(sweep.folder.glob(f"runs/{NAME}-*/checkpoints/*.pt")),
            "checkpoint",
        )
        [array] = {job["jobid"].partition("_")[0] for job in cluster.queue()}
        cluster.run("scancel", "--signal=USR2", f"{array}_1")
        said = sweep.finishes(launcher)
    sweep.wait(lambda: not cluster.queue(), "end of the jobs")
    [place] = said.splitlines()
    assert place.startswith("output of the sweep's jobs: runs/sweeps/"), said
    first, second = sweep.begun_by_name().values()
    assert first == [0]
    assert len(second) == 2
    assert 0 < second[1] < STEPS
    ended = ["COMPLETED", "COMPLETED", "REQUEUED"]

    def states() -> list[str]:
        return sorted(job["state"] for job in cluster.accounting(f"--jobs={array}"))

    sweep.wait(lambda: states() == ended, f"jobs that ended as {', '.join(ended)}")

    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    train_undisturbed(sweep, undisturbed)
    expected, found = weights(undisturbed, NAME), weights(sweep.folder, NAME)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key

    steps = sweep.output().count(f"/{STEPS}: ")
    with sweep.launched() as launcher:
        sweep.finishes(launcher)
    assert sweep.output().count(f"/{STEPS}: ") == steps > 0
