"""The interface between the sampling loop and its integrators."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from psld.diffusion.score import Score

Noise = Callable[[Tensor], Tensor]
"""Standard normal noise like a given state."""


class Integrator(Protocol):
    """Carries a state from T = 1 towards the data, in len(times) steps."""

    times: list[float]
    """Forward times at which the steps start."""
    ends: list[float]
    """Forward times at which the steps end. An integrator whose last step ends at 0 has reached
    the data by itself; after any other the loop adds the denoising step."""
    replacement_times: list[float] | None
    """Inpainting: after each step, the time whose noise the known pixels get. None if the
    integrator carries the known pixels along by itself."""

    def step(self, index: int, z: Tensor, score: Score, noise: Noise) -> Tensor:
        """Step `index` from `z`; steps are taken in order, and step 0 starts a new sample."""
        ...


def table(matrices: Tensor, device: torch.device) -> Tensor:
    """Coefficients as a step applies them: float32 on the device."""
    return matrices.to(device, torch.float32)
