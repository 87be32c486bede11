"""Noise schedules β(t) on [0, 1], with their integrals B(t) = ∫₀ᵗ β(s) ds.

A schedule is a function of float64 times of any shape. It may have an `integral`, a function of
times, and `jumps`, the times at which β is discontinuous; `as_schedule` adds a missing integral.
The shipped schedules are in `psld.diffusion.settings`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from psld.diffusion.kernels import Schedule, Times, VaryingSDE
from psld.diffusion.matrices import as_times


@dataclass(frozen=True)
class LinearBeta:
    """The linear schedule β(t) = β₀ + t (β₁ − β₀) for t ∈ [0, 1]."""

    beta_min: float
    beta_max: float

    def __call__(self, t: Times) -> Tensor:
        return self.beta_min + as_times(t) * (self.beta_max - self.beta_min)

    def integral(self, t: Times) -> Tensor:
        t = as_times(t)
        return self.beta_min * t + 0.5 * t**2 * (self.beta_max - self.beta_min)


class IntegratedBeta:
    """A schedule whose integral is computed numerically, to about ten digits.

        beta = IntegratedBeta(lambda t: torch.where(t < 0.3, 2.0, 12.0), jumps=[0.3])

    The integral B(t) is computed as the variance of dz = √β(t) dw.
    """

    def __init__(self, beta: Callable[[Tensor], Any], jumps: Sequence[float] = ()) -> None:
        """Raises UserError if the integral does not converge; `jumps` may then be incomplete."""
        self.beta = beta
        self.jumps = tuple(jumps)

        def coefficients(t: Tensor) -> tuple[Tensor, Tensor]:
            squared = self(t)[..., None, None]
            return torch.zeros_like(squared), squared

        self._sde = VaryingSDE(coefficients, self.jumps)

    def __call__(self, t: Times) -> Tensor:
        t = as_times(t)
        return torch.as_tensor(self.beta(t), dtype=torch.float64).expand(t.shape)

    def integral(self, t: Times) -> Tensor:
        return self._sde.moments(as_times(t))[1][..., 0, 0].clone()


def as_schedule(beta: Any, jumps: Sequence[float] = ()) -> Schedule:
    """Convert a number, a function of times or a schedule to a `Schedule`.

    A function may be discontinuous at the `jumps`.
    """
    if not callable(beta):
        return LinearBeta(float(beta), float(beta))
    if hasattr(beta, "integral"):
        return beta  # pyright: ignore[reportReturnType]
    return IntegratedBeta(beta, sorted({*jumps, *getattr(beta, "jumps", ())}))
