"""Custom processes and noise schedules: training, sampling and `psld check` of the examples."""

import shutil
from pathlib import Path

import pytest
import torch

import psld
from psld.commands.process_trials import trial_of_process
from psld.diffusion.process import LinearProcess
from psld.models.manifest import read_manifest
from psld.utils.errors import UserError
from tests.commands import TINY, call, fresh_modules, refused, succeeded
from tests.diffusion.processes import phase_space, sub_vp, varying, vp_sde
from tests.parts.own import edit, write
from tests.workflow.project import REPOSITORY

RECIPE = ("training.steps=2", "wandb.mode=disabled")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    shutil.copy(REPOSITORY / "docs/examples/processes.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


PROCESSES = {
    "sub-vp": ["process=processes:SubVP"],
    "friction": ["process=processes:Friction", "process.last=0.5"],
    "chain": ["process=processes:Chain", "process.order=3"],
    "cosine": ["process=vp-sde", "process.beta=cosine", "process.beta.left=0.02"],
    "warm": ["process=psld", "process.beta=processes:Warm"],
}


@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_is_trained_and_sampled(name, folder, digits):
    with fresh_modules():
        words = (*TINY, *PROCESSES[name], *RECIPE, f"data={digits}", "name=x")
        succeeded(call(folder, "train", *words))
        model = psld.load("by-hand/x")
        for sampler in ({"sampler": "em", "steps": 4}, {"sampler": "rk45", "tolerance": 0.01}):
            assert model.sample(2, **sampler).shape == (2, 1, 8, 8)
        images = model.sample(2, sampler="multistep", steps=4)
        sample = ("sampler=multistep", "sampler.steps=4", "shard_size=2", "output=samples")
        succeeded(call(folder, "sample", "model=by-hand/x", *sample, "npz=x.npz"))
        assert torch.equal(psld.load_images("x.npz"), images)


def test_a_denoiser_is_sampled_with_every_process(folder, digits):
    with fresh_modules():
        words = (*TINY, "training.objective=denoiser", *RECIPE, f"data={digits}", "name=x")
        succeeded(call(folder, "train", *words))
        model = psld.load("by-hand/x")
        for process in (
            "processes:VE",
            {"processes:Chain": {"order": 4}},
            {"vp-sde": {"beta": {"kind": "sigmoid", "steepness": 6}}},
        ):
            assert model.sample(2, process=process, steps=4).isfinite().all()
        processes = ("process=processes:Friction", "process.beta=processes:Warm")
        sample = ("sampler.steps=4", "shard_size=2", "output=samples")
        succeeded(call(folder, "sample", "model=by-hand/x", *processes, *sample))


def test_a_job_with_other_code_of_its_process_is_refused(folder, digits):
    with fresh_modules():
        words = (*TINY, "training.objective=denoiser", *RECIPE, f"data={digits}", "name=x")
        succeeded(call(folder, "train", *words))
        sample = ("process=processes:VE", f"process.code={'0' * 64}", "output=samples")
        line = refused(call(folder, "sample", "model=by-hand/x", *sample), 2)
    assert "its process processes:VE has code 000000000000, and processes.py here is code" in line


def test_an_edit_of_a_process_trains_again(folder, digits):
    words = (*TINY, "process=processes:SubVP", *RECIPE, f"data={digits}", "name=x")
    succeeded(call(folder, "train", *words))
    assert read_manifest("models/by-hand/x").settings.process.title == "processes:SubVP"
    assert "training" not in succeeded(call(folder, "train", *words)).stdout
    edit(folder / "processes.py", "return -beta(t) *", "return -1.0 * beta(t) *")
    assert "replaces the weights of another" in succeeded(call(folder, "train", *words)).stdout


def test_check_tests_a_process(folder):
    said = succeeded(call(folder, "check", "processes:Friction", "last=0.5")).stdout
    assert "2 blocks, of which the network predicts the noise of 2" in said
    assert "roots solve the SDE's equations to 1e-06" in said
    assert "500 simulated paths end within" in said
    assert "a checkpoint can hold the state of the training" in said
    said = succeeded(call(folder, "check", "processes:Warm", "until=0.5")).stdout
    assert "tested as the schedule of the VP-SDE" in said


def test_the_number_of_blocks_of_a_class_is_that_of_its_process(folder, digits):
    write(
        folder,
        wrong="""
        from processes import Chain


        class Wrong(Chain):
            blocks = 2
        """.replace("\n        ", "\n"),
    )
    words = (*TINY, "process=wrong:Wrong", *RECIPE, f"data={digits}", "name=x")
    line = refused(call(folder, "train", *words), 2)
    assert "process: wrong:Wrong builds 4 blocks, and its class has blocks = 2" in line


class WrongCovariance(LinearProcess):
    def image_covariance(self, t):
        return 1.001 * super().image_covariance(t)


class WrongTransition(LinearProcess):
    def transition(self, t):
        return super().transition(t) * (1 + 1e-4 * torch.as_tensor(t).view(-1, 1, 1))


class WrongScore(LinearProcess):
    def score_matrix(self, t):
        return -super().score_matrix(t)


class WrongDiffusion(LinearProcess):
    def diffusion(self, t):
        return super().diffusion(t) / 2


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (WrongCovariance, r"image_covariance at t = [\d.e-]+ is \[\[.* equation gives .*0\.001"),
        (WrongTransition, r"transition at t = 1 is .* \(error 0\.0001\)"),
        (WrongScore, r"score_matrix at t = "),
        (WrongDiffusion, r"diffusion at t = .* \(error 0\.75\)"),
    ],
)
def test_check_names_the_method_that_disagrees(kind, said):
    matrices = [[0.01, 0], [0, 0.5025]], [[0, -0.5], [0.5, 0]], [1, 0.25]
    wrong = kind(*matrices, 8.0, initial_variance=[0, 0.01], numerical_eps=1e-9)
    with pytest.raises(UserError, match=rf"^process: .*{said}"):
        list(trial_of_process(wrong))


@pytest.mark.parametrize(
    "process",
    [vp_sde(), phase_space(0.0), phase_space(0.02, matching="dsm", factor="upper"), sub_vp()],
)
def test_shipped_processes_solve_their_equations(process):
    assert len(list(trial_of_process(process))) == 3


def test_a_process_that_jumps_solves_its_equations():
    assert len(list(trial_of_process(varying()))) == 3
