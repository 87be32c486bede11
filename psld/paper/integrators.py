"""Published baselines: generalized DDIM (gDDIM) and conjugate integrators."""

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from psld.diffusion.denoiser import check_prediction, prediction_coefficients
from psld.diffusion.integrators import Noise
from psld.diffusion.kernels import GAUSS_3, magnus
from psld.diffusion.matrices import mix, table
from psld.diffusion.multistep import gauss_log_times, polynomial_integrals, step_weights
from psld.diffusion.process import LinearProcess
from psld.diffusion.roots import WhiteningRoot, whitening_root
from psld.diffusion.score import Score


class GDDIM:
    """gDDIM (Zhang, Tao and Chen, ICLR 2023) on the probability-flow ODE:

        z_s = Ψ(s,t) z_t + Σ_j C_j ε^R_j,      C_j = ∫_t^s ½ Ψ(s,u) G Gᵀ R_u⁻ᵀ ℓ_j(u) du,

    where Ψ is the transition of the drift, R the flow root of Σ, s the score and ε^R = −Rᵀ s. If
    the data is a single point, ε^R is constant along a trajectory. The integrand is equal to
    ℓ_j d(Ψ(s,u) R_u).

    If the network predicts only some blocks of ε, it does not determine the complete score. In this
    case, ε^R = R⁻¹(z − a x̂₀).
    """

    draws = 0

    def __init__(
        self, process: LinearProcess, grid: Tensor, device: torch.device, order: int
    ) -> None:
        """Tabulate the steps between the descending forward times of `grid`."""
        start, end = grid[:-1], grid[1:]
        self.times = start.tolist()
        self.ends = self.replacement_times = end.tolist()
        self.order = order
        root = whitening_root(process, "flow", float(grid[-1]))
        state, eps, projection = _noise_rows(process, root, start)
        self.state, self.eps = table(state, device), table(eps, device)
        self.projection = table(projection, device)
        self.transition = table(process.transition_between(start, end), device)
        self.weights = step_weights(partial(_gddim_weights, process, root), grid, order, device)
        self.history: list[Tensor] = []
        """The previous values of ε^R, newest first."""

    def step(self, index: int, z: Tensor, score: Score, noise: Noise) -> Tensor:
        eps = score(z, self.times[index]).mix(self.eps[index], self.projection[index])
        eps = mix(self.state[index], z) + eps
        self.history = [eps, *(self.history if index > 0 else [])][: self.order]
        drifted = mix(self.transition[index], z)
        return drifted + mix(self.weights[index], torch.cat(self.history, dim=1))


def _noise_rows(
    process: LinearProcess, root: WhiteningRoot, t: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the coefficients (state, eps, projection) of ε^R.

    ε^R = state · z + eps · ε + projection · guide gradient.
    """
    R = root(t)
    if process.predicted_blocks == process.blocks:
        return torch.zeros_like(R), -R.mT @ process.score_matrix(t), -R.mT
    check_prediction(process, float(t.min()))
    rows, inverse = prediction_coefficients(process, t), torch.linalg.inv(R)
    c = inverse @ process.image_mean(t)[:, :, None]
    return inverse - c @ rows.state, -c @ rows.eps, -c @ rows.score


def _gddim_weights(
    process: LinearProcess, root: WhiteningRoot, start: Tensor, end: Tensor, nodes: Tensor
) -> Tensor:
    """Return [C_0 C_1 …], N×k×(q·k), for N steps with N×q interpolation nodes."""

    def curve(times: Tensor) -> Tensor:
        return (process.transition_between(times, end[:, None]) @ root(times)).flatten(2)

    integrals = polynomial_integrals(process, curve, "t", start, end, nodes)
    return integrals.unflatten(1, (process.blocks, -1)).transpose(2, 3).flatten(2)


class ConjugateIntegrator:
    """Euler's method in coordinates z̄ = A z with Ȧ = A (B − F) (Pandey, Rudolph and Mandt, 2023):

        dz̄ = A B A⁻¹ z̄ dt + dΦ ε,      dΦ = ½ A G Gᵀ L⁻ᵀ dt.

    In the original coordinates, a step from t to s is

        z_s = T(s,t) (I + (s − t) B) z_t + ∫_t^s T(s,u) ½ G Gᵀ L_u⁻ᵀ du ε,

    where T(s,u) is the transition of F − B. B = 0 is the exponential integrator, B = λI is λ-DDIM-I
    and B = λ·(all ones) is λ-DDIM-II. The order is 1 for any λ. The paper searches for the best λ
    at each NFE.
    """

    draws = 0

    def __init__(
        self,
        process: LinearProcess,
        grid: Tensor,
        device: torch.device,
        conjugation: str,
        strength: float,
    ) -> None:
        """Tabulate the steps between the descending forward times of `grid`.

        B = `strength` · I (`conjugation` identity), or `strength` · all ones (`ones`).
        """
        start, end = grid[:-1], grid[1:]
        k, p = process.blocks, process.predicted
        self.times = start.tolist()
        self.ends = self.replacement_times = end.tolist()
        identity = torch.eye(k, dtype=torch.float64)
        B = strength * (identity if conjugation == "identity" else torch.ones_like(identity))
        transition, weight = _conjugate_coefficients(process, B, start, end)
        euler = identity + (end - start)[:, None, None] * B
        self.state = table(transition @ euler, device)
        self.weight = table(weight, device)
        self.eps = torch.eye(process.predicted_blocks, device=device)
        self.projection = table(-process.covariance_factor(start).mT[:, p], device)
        """−Lᵀ in the predicted blocks. This matrix converts the score of a guide to ε."""

    def step(self, index: int, z: Tensor, score: Score, noise: Noise) -> Tensor:
        eps = score(z, self.times[index]).mix(self.eps, self.projection[index])
        return mix(self.state[index], z) + mix(self.weight[index], eps)


def _conjugate_coefficients(
    process: LinearProcess, B: Tensor, start: Tensor, end: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the coefficients of N steps from t (`start`) to s (`end`).

    Returns T(s,t), N×k×k, and ∫_t^s T(s,u) ½ G Gᵀ L_u⁻ᵀ du on the predicted blocks, N×k×p.
    """
    nodes, node_weights = gauss_log_times(start, end, process.jumps)
    stops = torch.cat([start[:, None], nodes, end[:, None]], dim=1)
    transition = torch.eye(process.blocks, dtype=torch.float64).expand(len(end), -1, -1)
    transitions = []
    for before, after in reversed(list(pairwise(stops.unbind(dim=1)))):
        transition = transition @ _conjugate_transition(process, B, before, after)
        transitions.append(transition)
    whole, *from_nodes = reversed(transitions)
    density = -0.5 * process.diffusion_squared(nodes) @ process.score_matrix(nodes)
    summands = node_weights[:, :, None, None] * torch.stack(from_nodes, dim=1) @ density
    return whole, summands.sum(dim=1)


def _conjugate_transition(process: LinearProcess, B: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Return the transition of F − B between N times, N×k×k, by a Magnus step of order 6."""
    span = end - start
    rates = (process.drift(start + share * span) - B for share in GAUSS_3)
    return torch.linalg.matrix_exp(magnus(*(span[:, None, None] * rate for rate in rates)))
