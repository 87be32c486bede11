"""The interface between the sampling loop and its integrators."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from psld.diffusion.score import Score

Noise = Callable[[Tensor], Tensor]
"""Function that draws standard normal noise in the shape of a given state."""


class Integrator(Protocol):
    """An integrator from T = 1 toward the data, in len(times) steps."""

    times: list[float]
    """Forward times at which the steps start."""
    ends: list[float]
    """Forward times at which the steps end. If the last step ends at 0, it has reached the data;
    otherwise the loop adds the denoising step."""
    replacement_times: list[float] | None
    """For inpainting: the time whose noise the known pixels get after each step. None if the
    integrator handles the known pixels itself."""

    def step(self, index: int, z: Tensor, score: Score, noise: Noise) -> Tensor:
        """Take step `index` from `z`. Steps are taken in order; step 0 starts a new sample."""
        ...


def table(matrices: Tensor, device: torch.device) -> Tensor:
    """Convert coefficients for use in steps: float32 on the device."""
    return matrices.to(device, torch.float32)
