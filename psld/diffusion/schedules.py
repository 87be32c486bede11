"""Noise schedules β(t) on [0, 1], with their integrals B(t) = ∫₀ᵗ β(s) ds.

A schedule is a function of float64 times of any shape. It may have an `integral`, a function of
times, and `jumps`, the times at which β is discontinuous; `as_schedule` adds a missing integral.
The shipped schedules are in `psld.diffusion.settings`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from psld.diffusion.matrices import as_times
from psld.utils.errors import UserError

Times = Tensor | float

PANEL_NODES = 20
"""Gauss–Legendre nodes of a panel."""
MOST_PANELS = 4096
PRECISION = 1e-14
"""The error of each panel of `IntegratedBeta`, relative to B(1)."""


class Schedule(Protocol):
    """A noise schedule as processes use it."""

    def __call__(self, t: Times) -> Tensor:
        """Return β(t)."""
        ...

    def integral(self, t: Times) -> Tensor:
        """Return B(t) = ∫₀ᵗ β(s) ds."""
        ...


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
    """A schedule whose integral is computed by Gauss–Legendre quadrature, to about 1e-13 of B(1).

        beta = IntegratedBeta(lambda t: torch.where(t < 0.3, 2.0, 12.0), jumps=[0.3])

    The panels of the quadrature are halved until their integrals no longer change. A panel ends at
    each of the `jumps`.
    """

    def __init__(self, beta: Callable[[Tensor], Any], jumps: Sequence[float] = ()) -> None:
        """Raises UserError if the integral does not converge; a missing jump may be the cause."""
        self.beta = beta
        self.jumps = tuple(jumps)
        legendre = np.polynomial.legendre
        x, weights = legendre.leggauss(PANEL_NODES)
        self.nodes, self.weights = (torch.from_numpy(each) / 2 for each in (1 + x, weights))
        # Values at the ends of a panel are extrapolated from its nodes: e = V(±1) V(x)⁻¹.
        vander, ends = (legendre.legvander(each, PANEL_NODES - 1) for each in (x, [-1, 1]))
        extrapolation = torch.from_numpy(np.linalg.solve(vander.T, ends.T))
        self.edges = as_times([0.0, *sorted(self.jumps), 1.0])
        while True:
            start, end = self.edges[:-1], self.edges[1:]
            middle = (start + end) / 2
            areas = self._area(start, end)
            halved = self._area(start, middle) + self._area(middle, end)
            # A jump between the last node and the end of a panel changes no area.
            span = (end - start)[:, None]
            at_ends = self(start[:, None] + span * span.new_tensor([1e-10, 1 - 1e-10]))
            missed = (self(start[:, None] + span * self.nodes) @ extrapolation - at_ends) * span
            error = torch.maximum((halved - areas).abs(), missed.abs().amax(dim=1))
            rough = error > PRECISION * halved.abs().sum()
            if not rough.any():
                break
            if len(self.edges) > MOST_PANELS:
                at = float(start[rough][0])
                raise UserError(
                    f"process: the integral of β does not converge near t = {at:.4g}; "
                    "name the jumps of β"
                )
            self.edges = torch.cat([self.edges, middle[rough]]).sort().values
        self.areas = torch.cat([areas.new_zeros(1), areas.cumsum(0)])

    def __call__(self, t: Times) -> Tensor:
        t = as_times(t)
        return torch.as_tensor(self.beta(t), dtype=torch.float64).expand(t.shape)

    def integral(self, t: Times) -> Tensor:
        t = as_times(t)
        panel = (torch.searchsorted(self.edges, t.contiguous(), right=True) - 1).clamp(
            0, len(self.edges) - 2
        )
        return self.areas[panel] + self._area(self.edges[panel], t)

    def _area(self, start: Tensor, end: Tensor) -> Tensor:
        span = (end - start)[..., None]
        return (span * self.weights * self(start[..., None] + span * self.nodes)).sum(dim=-1)


def as_schedule(beta: Any, jumps: Sequence[float] = ()) -> Schedule:
    """Return a number, a function of times or a schedule as a `Schedule`.

    A function may be discontinuous at the `jumps`.
    """
    if not callable(beta):
        return LinearBeta(float(beta), float(beta))
    if hasattr(beta, "integral"):
        return beta  # pyright: ignore[reportReturnType]
    return IntegratedBeta(beta, sorted({*jumps, *getattr(beta, "jumps", ())}))
