"""Integrals of the interpolating polynomials of a multistep method, and their table."""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from psld.diffusion.matrices import table
from psld.diffusion.process import LinearProcess

Interpolation = Literal["lambda", "t", "sqrt-t"]

NODES = 20
"""Nodes of Gauss–Legendre quadrature in log t, per step."""


def gauss_log_times(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Return times u, N×n from `start` to `end`, and weights with Σ w f(u) ≈ ∫_start^end f dt."""
    x, weights = (torch.from_numpy(array) for array in np.polynomial.legendre.leggauss(NODES))
    span = (end / start).log()[:, None]
    u = start[:, None] * (span * (1 + x) / 2).exp()
    return u, span * u * weights / 2


def lagrange(nodes: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return ℓ_j(x) and ℓ_j'(x), both N×m×q; ℓ_j is 1 at node j and 0 at the others.

    Args:
        nodes: N×q, all different.
        x: N×m.
    """
    values, slopes = [], []
    for j in range(nodes.shape[1]):
        value, slope = torch.ones_like(x), torch.zeros_like(x)
        for i in range(nodes.shape[1]):
            if i == j:
                continue
            distance = (nodes[:, j] - nodes[:, i])[:, None]
            factor = (x - nodes[:, i, None]) / distance
            value, slope = value * factor, slope * factor + value / distance
        values.append(value)
        slopes.append(slope)
    return torch.stack(values, dim=2), torch.stack(slopes, dim=2)


def polynomial_integrals(
    process: LinearProcess,
    curve: Callable[[Tensor], Tensor],
    interpolation: Interpolation,
    start: Tensor,
    end: Tensor,
    nodes: Tensor,
) -> Tensor:
    """Return ∫_start^end ℓ_j dY, N×d×q, with Lagrange polynomials ℓ_j in τ = λ, t or √t.

    Integration by parts, [Y ℓ_j] − ∫ Y dℓ_j, needs no derivative of Y. The ℓ_j sum to 1, so the
    integrals sum to Y(end) − Y(start) up to rounding.

    Args:
        curve: Y, from N×m times to N×m×d.
        start, end: N times.
        nodes: N×q times.
    """
    u, weights = gauss_log_times(start, end)
    times = torch.cat([start[:, None], u, end[:, None]], dim=1)
    y = curve(times)
    at, rate = _abscissa(process, times, interpolation)
    values, slopes = lagrange(_abscissa(process, nodes, interpolation)[0], at)
    inside = y[:, 1:-1].mT @ ((weights * rate[:, 1:-1])[:, :, None] * slopes[:, 1:-1])
    last = y[:, -1, :, None] * values[:, -1, None]
    first = y[:, 0, :, None] * values[:, 0, None]
    return last - first - inside


def step_weights(
    weights: Callable[[Tensor, Tensor, Tensor], Tensor],
    grid: Tensor,
    order: int,
    device: torch.device,
    *,
    ahead: int = 0,
) -> list[Tensor]:
    """Tabulate the weights of every step of a multistep method on a time grid, k×q each.

    The nodes are the step's start and earlier times, and with `ahead` = 1 also its end. The first
    steps have fewer earlier times.

    Args:
        weights: from N starts, N ends and N×q nodes to N×k×q.
    """
    steps = len(grid) - 1
    matrices = []
    for first, last in pairwise([*range(min(order, steps)), steps]):
        index = torch.arange(first, last)[:, None]
        nodes = grid[index - torch.arange(-ahead, min(first + 1, order))]
        matrices += weights(grid[first:last], grid[first + 1 : last + 1], nodes).unbind()
    return [table(matrix, device) for matrix in matrices]


def _abscissa(
    process: LinearProcess, t: Tensor, interpolation: Interpolation
) -> tuple[Tensor, Tensor]:
    """Return τ and dτ/dt at times of any shape."""
    match interpolation:
        case "t":
            return t, torch.ones_like(t)
        case "sqrt-t":
            return t.sqrt(), 0.5 * t.rsqrt()
        case "lambda":
            flat = t.flatten()
            return process.log_snr(flat).view_as(t), process.log_snr_rate(flat).view_as(t)
