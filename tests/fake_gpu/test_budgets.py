"""Kernels and memory of the paper's networks, within 5 % of what was counted before."""

import pytest
import torch

from psld.diffusion.loss import Batch, EpsilonLoss
from psld.grid.resolution import compose_model
from psld.networks.forward import forward_pass
from psld.training.loop import optimize
from psld.training.memory import training_memory
from psld.training.model import build_network, build_process
from psld.training.settings import ModelSettings
from psld.training.state import TrainingState
from tests.fake_gpu.fake import CUDA, FakeGPU

NETWORKS = {
    "cifar10-ablation": ("cifar10", "cifar10-ablation", 32),
    "cifar10-55m": ("cifar10", "cifar10-55m", 16),
    "cifar10-sota": ("cifar10", "cifar10-sota", 16),
    "celeba64-ablation": ("celeba64", "celeba64-ablation", 32),
    "celeba64-sota": ("celeba64", "celeba64-sota", 16),
    "afhqv2-ablation": ("afhqv2-128", "afhqv2-ablation", 8),
    "afhqv2-sota": ("afhqv2-128", "afhqv2-sota-psld", 8),
}
"""Dataset, training, and images per forward pass in the official code."""

COUNTED = {
    ("cifar10-ablation", "fp32"): (975, 2.31),
    ("cifar10-55m", "fp32"): (1170, 2.71),
    ("cifar10-sota", "fp32"): (1974, 4.74),
    ("cifar10-sota", "bf16"): (3525, 4.48),
    ("celeba64-ablation", "fp32"): (1784, 9.0),
    ("celeba64-sota", "fp32"): (1501, 5.79),
    ("afhqv2-ablation", "fp32"): (1176, 7.19),
    ("afhqv2-sota", "fp32"): (1281, 9.81),
}
"""Launches and GiB of a step with one forward pass."""


def settings_of(network: str, precision: str) -> tuple[ModelSettings, int]:
    dataset, training, images = NETWORKS[network]
    words = [f"dataset={dataset}", "process=psld", f"network={network}", f"training={training}"]
    words += [f"training.precision={precision}", f"training.batch_size={images}"]
    return compose_model([*words, f"training.micro_batch={images}"], "test"), images


def step_on_fake_gpu(network: str, precision: str) -> FakeGPU:
    """Return the fake GPU after the second step, which has Adam's moments from the first."""
    settings, images = settings_of(network, precision)
    process = build_process(settings)
    with FakeGPU() as gpu:
        state = TrainingState(build_network(settings, process).to(CUDA), settings.training)
        called = forward_pass(state.network.train(), precision)
        noise = torch.empty(images, *state.network.in_shape, device=CUDA)
        t = torch.full((images,), 0.5, dtype=torch.float64)
        batch = Batch(torch.empty_like(noise[:, :3]), t, noise, None)
        for _ in range(2):
            gpu.reset()
            optimize(state, called, EpsilonLoss(process), batch, settings.training)
    return gpu


@pytest.mark.parametrize(("network", "precision"), COUNTED)
def test_kernels_and_memory_are_as_recorded(network, precision):
    kernels, gib = COUNTED[network, precision]
    gpu = step_on_fake_gpu(network, precision)
    assert gpu.kernels.total() == pytest.approx(kernels, rel=0.05)
    assert gpu.peak / 2**30 == pytest.approx(gib, rel=0.05)


def test_the_plans_counter_counts_the_same():
    settings, images = settings_of("cifar10-ablation", "fp32")
    peak = step_on_fake_gpu("cifar10-ablation", "fp32").peak
    assert training_memory(settings, images) == pytest.approx(peak, rel=0.01)
