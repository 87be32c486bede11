"""Except for RK45, no step waits for the GPU. Each step copies only its batch, from pinned
memory."""

from itertools import product

import pytest
import torch

from psld.diffusion.denoiser import SeesImages, StraightDenoiser
from psld.diffusion.likelihood import log_likelihood
from psld.diffusion.loop import sample
from psld.diffusion.samplers import RK45Settings
from psld.diffusion.settings import NoiseLaw, PSLDSettings
from psld.training import batches
from tests.fake_gpu.fake import CUDA, FakeGPU
from tests.fake_gpu.steps import SCORES, SHAPE, check_sampler, check_training, guided
from tests.fake_gpu.trainings import MODEL, TRAININGS, settings_of
from tests.gpu.test_steps import PROCESS, SAMPLERS

MORE = {
    "dsm": settings_of(*MODEL, process=PSLDSettings(kind="psld", gamma=0.02, matching="dsm")),
    "nll": settings_of(*MODEL, weighting="nll"),
    "law": settings_of(*MODEL, noise_law=NoiseLaw()),
}


EACH = {kind: settings for kind, settings in (TRAININGS | MORE).items() if kind != "bf16"}


@pytest.mark.parametrize(
    ("kind", "precision"), [*product(EACH, ["bf16"]), ("epsilon", "fp32"), ("guide", "fp32")]
)
def test_a_training_step_does_not_wait(kind, precision):
    settings = EACH[kind]
    changes = {"precision": precision, "micro_batch": 32}
    training = settings.training.model_copy(update=changes)
    with FakeGPU() as gpu:
        check_training(gpu, settings.model_copy(update={"training": training}))


def test_images_that_are_not_on_the_gpu_are_copied_without_waiting(monkeypatch):
    monkeypatch.setattr(batches, "RESIDENT_BYTES", 0)
    with FakeGPU() as gpu:
        check_training(gpu, TRAININGS["epsilon"], bytes_of_image=64)


@pytest.mark.parametrize(
    ("sampler", "guidance"),
    [*product(SAMPLERS, ("none", "inpainting")), *product(("em", "multistep"), SCORES)],
)
def test_a_sampler_step_does_not_wait(sampler, guidance):
    with FakeGPU() as gpu:
        check_sampler(gpu, SAMPLERS[sampler].model_copy(update={"steps": 4}), guidance)


@pytest.mark.parametrize("sees_images", [False, True])
def test_a_denoiser_of_numbers_does_not_wait(sees_images):
    with FakeGPU() as gpu:
        network = guided("none").score.network
        if sees_images:
            network = SeesImages(PROCESS, lambda y, sigma: y / sigma.sum(), gives_image=True)
        x = torch.zeros(SHAPE[0], 3, 16, 16, device=CUDA)
        denoise = StraightDenoiser(PROCESS, network, torch.zeros_like(x))
        gpu.reset()
        for sigma in (80.0, 3.0, 0.1):
            denoise(x, sigma)
    assert not gpu.waits, f"waits: {gpu.waits}"
    assert not gpu.blocking, f"blocking copies: {gpu.blocking}"


def test_rk45_copies_the_state_for_each_evaluation():
    """Each evaluation copies the state to the GPU and back, in float32. The start and the end need
    one copy each. The last step denoises."""
    settings = RK45Settings(integrator="rk45", tolerance=1e-1)
    with FakeGPU() as gpu:
        score, z = guided("none").score, torch.zeros(SHAPE, device=CUDA)
        gpu.reset()
        sample(PROCESS, settings, score, z, torch.zeros_like, silent=True)
    evaluations = score.evaluations - settings.denoise
    assert evaluations > 6
    assert gpu.waits.total() == evaluations + 1
    assert gpu.blocking.total() == (evaluations + 1) * z.nbytes
    assert gpu.copies.total() - gpu.blocking.total() < 128 * evaluations, "the coefficients"


def test_the_likelihood_copies_the_state_for_each_evaluation():
    """Each evaluation copies the state to the GPU and back, in float32. The start and the squared
    momenta are also copied to the CPU."""
    with FakeGPU() as gpu:
        network, x = guided("none").score.network, torch.zeros(8, 3, 16, 16, device=CUDA)
        gpu.reset()
        found = log_likelihood(PROCESS, network, x, torch.zeros_like, probes=2, tolerance=1e-1)
    assert found.evaluations > 6
    assert gpu.waits.total() == found.evaluations + 2
    assert gpu.blocking.total() == found.evaluations * PROCESS.blocks * x.nbytes
    assert gpu.copies.total() - gpu.blocking.total() < 128 * found.evaluations, "the coefficients"
