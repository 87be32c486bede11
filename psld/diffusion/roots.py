"""Time-dependent square roots of Σ(t), which define the whitened coordinates of samplers.

Every root is R̃ = L U, with L the triangular factor of Σ and U orthogonal. Let H = L⁻¹ G Gᵀ L⁻ᵀ and
K = L⁻¹ F L + ½ H, with F the drift. The skew-symmetric W in U̇ = W U defines the root:

    flow      W_f = triu(K, 1) − triu(K, 1)ᵀ   (lower factor; tril(K, −1) for the upper factor)
              Ṙ = (F + ½ G Gᵀ Σ⁻¹) R: the root that the probability-flow ODE follows
    straight  W = W_f + v ĉᵀ − ĉ vᵀ,   ĉ = c_L/|c_L|,   v = −½ H ĉ,   c_L = L⁻¹ a
              R̃⁻¹ a = (√ρ, 0, …): only the first whitened coordinate depends on x₀. For k > 2 the
              other axes follow by parallel transport in the coordinates of the flow root.
"""

import math
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from psld.diffusion.kernels import GAUSS_3, magnus
from psld.diffusion.matrices import as_times
from psld.diffusion.process import LinearProcess

Root = Literal["flow", "straight"]

FRAMES = 512
"""Number of times, evenly spaced in log t, at which U is tabulated."""


class WhiteningRoot:
    """The root R̃(t), N×k×k, at forward times between `final_time` and T; float64 on the CPU.

    U is tabulated once, from T down. A Magnus step of order 6 leads to t from the nearest tabulated
    time above t. R̃ R̃ᵀ = Σ is exact up to rounding, and the error of U is about 1e-9.
    """

    def __init__(self, process: LinearProcess, kind: Root, final_time: float) -> None:
        self.process = process
        self.kind = kind
        log_times = torch.linspace(0, math.log(final_time), FRAMES, dtype=torch.float64)
        self.times = log_times.exp()
        if jumps := [t for t in process.jumps if final_time < t < process.T]:
            # Tabulate U at the jumps, because a Magnus step must not contain a jump.
            self.times = torch.cat([self.times, as_times(jumps)]).sort(descending=True).values
        frames = [torch.eye(process.blocks, dtype=torch.float64)]
        if kind == "straight":
            frames = [_frame_along(process.whitened_mean(self.times[:1])[0])]
        for turn in self._turn(self.times[:-1], self.times[1:]):
            frames.append(turn @ frames[-1])
        self.frames = torch.stack(frames)
        """U at `times`, …×k×k."""

    def __call__(self, t: Tensor) -> Tensor:
        """Return R̃ at N forward times."""
        before = torch.searchsorted(-self.times, -t, right=True) - 1
        before = before.clamp(0, len(self.times) - 1)
        turn = self._turn(self.times[before], t)
        return self.process.image_factor(t) @ turn @ self.frames[before]

    def _turn(self, start: Tensor, end: Tensor) -> Tensor:
        """Return the orthogonal matrices, N×k×k, that take U from `start` to `end`."""
        if self.process.blocks == 1:
            return torch.ones(*start.shape, 1, 1, dtype=torch.float64)
        span = (end / start).log()

        def slope(share: float) -> Tensor:
            t = start * (share * span).exp()
            return (span * t)[..., None, None] * self._spin(t)

        return torch.linalg.matrix_exp(magnus(*(slope(share) for share in GAUSS_3)))

    def _spin(self, t: Tensor) -> Tensor:
        """Return the skew-symmetric W(t), N×k×k."""
        process = self.process
        factor, drift = process.image_factor(t), process.drift(t)
        whitened_drift = torch.linalg.solve(factor, drift @ factor)
        half_diffusion = 0.5 * torch.linalg.solve(factor, process.image_diffusion_squared(t))
        half_diffusion = torch.linalg.solve(factor, half_diffusion.mT)
        flow = whitened_drift + half_diffusion
        flow = flow.triu(1) if process.factor == "lower" else flow.tril(-1)
        spin = flow - flow.mT
        if self.kind == "flow":
            return spin
        c = process.whitened_mean(t)[..., None]
        c = c / c.norm(dim=-2, keepdim=True)
        v = -half_diffusion @ c
        return spin + v @ c.mT - c @ v.mT


whitening_root = lru_cache(16)(WhiteningRoot)
"""Return the `WhiteningRoot` of a process, with its table cached."""


def _frame_along(c: Tensor) -> Tensor:
    """Return an orthogonal matrix, k×k, with the first column c/|c|."""
    columns = torch.eye(len(c), dtype=torch.float64)
    columns[:, 0] = c
    frame, _ = torch.linalg.qr(columns)
    return frame * torch.sign(frame[:, 0] @ c)
