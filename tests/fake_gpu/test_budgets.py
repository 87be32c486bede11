"""Kernels and memory of the paper's networks, within 5 % of the recorded counts."""

from functools import cache

import pytest
import torch

from benchmarks.settings import compose_model
from psld.diffusion.loss import Batch, EpsilonLoss
from psld.models.build import build, build_process
from psld.models.settings import TrainedSettings
from psld.networks.forward import forward_pass
from psld.training.loop import optimize
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
    ("cifar10-sota", "bf16"): (2036, 3.33),
    ("celeba64-ablation", "fp32"): (1784, 9.0),
    ("celeba64-sota", "fp32"): (1501, 5.79),
    ("afhqv2-ablation", "fp32"): (1176, 7.19),
    ("afhqv2-sota", "fp32"): (1281, 9.81),
}
"""Kernel launches and peak memory, in GiB, of a step with one forward pass. After an intended
change, copy the numbers that the failed test prints."""


@cache
def counted(network: str, precision: str) -> tuple[TrainedSettings, int, int, int]:
    """Return the settings of a training step, its number of images, its kernel launches, and its
    peak memory in bytes."""
    dataset, training, images = NETWORKS[network]
    words = [f"dataset={dataset}", "process=psld", f"network={network}", f"training={training}"]
    words += [f"training.precision={precision}", f"training.batch_size={images}"]
    settings = compose_model([*words, f"training.micro_batch={images}"], "test")
    process = build_process(settings)
    with FakeGPU() as gpu:
        with CUDA:
            state = TrainingState(build(settings, process).train(), settings.training)
            noise = torch.empty(images, *state.network.in_shape)
        for parameter in state.network.parameters():
            parameter.grad = torch.empty_like(parameter)
        state.optimizer.step()  # Count a later step, which includes Adam's moments.
        state.optimizer.zero_grad()
        t = torch.full((images,), 0.5, dtype=torch.float64)
        batch = Batch(torch.empty_like(noise[:, :3]), t, noise, None)
        gpu.reset()
        called = forward_pass(state.network, precision)
        optimize(state, called, EpsilonLoss(process), batch, settings.training)
    return settings, images, gpu.kernels.total(), gpu.peak


@pytest.mark.parametrize(("network", "precision"), COUNTED)
def test_kernels_and_memory_are_as_recorded(network, precision):
    *_, kernels, peak = counted(network, precision)
    assert (kernels, peak / 2**30) == pytest.approx(COUNTED[network, precision], rel=0.05)
