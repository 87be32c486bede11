"""Generalized DDIM (gDDIM): a published baseline, deterministic and multistep."""

from functools import partial

import torch
from torch import Tensor

from psld.diffusion.data_prediction import check_prediction, prediction_coefficients
from psld.diffusion.polynomials import polynomial_integrals, step_weights
from psld.diffusion.process import LinearProcess, mix
from psld.diffusion.roots import WhiteningRoot
from psld.diffusion.score import Score
from psld.diffusion.settings import GDDIMSettings
from psld.diffusion.stepping import Noise, table


class GDDIM:
    """gDDIM (Zhang, Tao and Chen, ICLR 2023) on the probability-flow ODE:

        z_s = Ψ(s,t) z_t + Σ_j C_j ε^R_j,      C_j = ∫_t^s ½ Ψ(s,u) G Gᵀ R_u⁻ᵀ ℓ_j(u) du,

    with Ψ the transition of the drift, R the flow root of Σ and ε^R = −Rᵀ s. If the data is one
    point, ε^R is constant along a trajectory. The integrand is ℓ_j d(Ψ(s,u) R_u).

    A network that predicts only some blocks of ε gives no full score. Then ε^R = R⁻¹(z − a x̂₀).
    """

    def __init__(
        self,
        process: LinearProcess,
        grid: Tensor,
        device: torch.device,
        settings: GDDIMSettings,
    ) -> None:
        """Tabulate the steps between the descending forward times of `grid`."""
        start, end = grid[:-1], grid[1:]
        self.times = start.tolist()
        self.ends = self.replacement_times = end.tolist()
        self.order = settings.order
        root = WhiteningRoot(process, "flow", float(grid[-1]))
        state, eps, projection = _noise_rows(process, root, start)
        self.state, self.eps = table(state, device), table(eps, device)
        self.projection = table(projection, device)
        self.transition = table(process.transition_between(start, end), device)
        self.weights = step_weights(partial(_weights, process, root), grid, self.order, device)
        self.history: list[Tensor] = []
        """ε^R so far, newest first."""

    def step(self, index: int, z: Tensor, score: Score, noise: Noise) -> Tensor:
        eps = score(z, self.times[index], self.eps[index], self.projection[index])
        eps = mix(self.state[index], z) + eps
        self.history = [eps, *(self.history if index > 0 else [])][: self.order]
        drifted = mix(self.transition[index], z)
        return drifted + mix(self.weights[index], torch.cat(self.history, dim=1))


def _noise_rows(
    process: LinearProcess, root: WhiteningRoot, t: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (state, eps, projection): ε^R = state · z + eps · ε + projection · guide gradient."""
    R = root(t)
    if process.predicted_blocks == process.blocks:
        return torch.zeros_like(R), -R.mT @ process.score_matrix(t), -R.mT
    check_prediction(process, float(t.min()))
    rows, inverse = prediction_coefficients(process, t), torch.linalg.inv(R)
    c = inverse @ process.image_mean(t)[:, :, None]
    return inverse - c @ rows.state, -c @ rows.eps, -c @ rows.score


def _weights(
    process: LinearProcess, root: WhiteningRoot, start: Tensor, end: Tensor, nodes: Tensor
) -> Tensor:
    """Return [C_0 C_1 …], N×k×(q·k), of steps between N times through N×q nodes."""
    k = process.blocks

    def curve(times: Tensor) -> Tensor:
        flat, ends = times.flatten(), end[:, None].expand_as(times).flatten()
        moved = process.transition_between(flat, ends) @ root(flat)
        return moved.reshape(*times.shape, k * k)

    integrals = polynomial_integrals(process, curve, "t", start, end, nodes)
    return integrals.unflatten(1, (k, k)).transpose(2, 3).flatten(2)
