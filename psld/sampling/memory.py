"""The memory of a sampling step on a GPU, counted without one."""

import torch

from psld.diffusion.integrators import EulerMaruyama
from psld.diffusion.score import ClassifierGuidedScore, NetworkScore
from psld.training.model import build, build_process, on_states
from psld.training.settings import ModelSettings, TrainedSettings
from psld.utils.memory import PeakMemory


@torch.no_grad()
def sampling_memory(settings: TrainedSettings, images: int) -> int:
    """Return the most bytes of tensors on a GPU in a step that evaluates so many images at once.

    These are the weights, states and activations of a step of Euler–Maruyama in fp32; of a guide,
    those for its gradient. Not counted: what is no tensor, other states of a shard, and the other
    network of a guided step, whose activations do not live at the same time.
    """
    process, data = build_process(settings), settings.dataset
    grid = torch.tensor([1.0, 0.5], dtype=torch.float64)
    with PeakMemory() as memory:
        with memory.without_values():
            network = build(settings, process).eval().requires_grad_(False)
            size = (process.blocks * data.channels, data.image_size, data.image_size)
            z = torch.empty(images, *size)
            labels = torch.empty(images, dtype=torch.int64)
        called = on_states(settings, process, network)
        if isinstance(settings, ModelSettings):
            score = NetworkScore(called, images)
        else:
            score = ClassifierGuidedScore(lambda *_: 0.0, called, labels, 1.0, images)
        memory.peak = memory.live
        EulerMaruyama(process, grid, z.device).step(0, z, score, torch.empty_like)
    return memory.peak
