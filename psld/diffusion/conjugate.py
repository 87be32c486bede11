"""Conjugate integrators: a published baseline of order 1 on the probability-flow ODE."""

import torch
from torch import Tensor

from psld.diffusion.polynomials import gauss_log_times
from psld.diffusion.process import LinearProcess, mix
from psld.diffusion.roots import GAUSS_3, magnus
from psld.diffusion.score import Score
from psld.diffusion.settings import ConjugateSettings
from psld.diffusion.stepping import Noise, table


class ConjugateIntegrator:
    """Euler's method in coordinates z̄ = A z with Ȧ = A (B − F) (Pandey, Rudolph and Mandt, 2023):

        dz̄ = A B A⁻¹ z̄ dt + dΦ ε,      dΦ = ½ A G Gᵀ L⁻ᵀ dt.

    In the state, a step from t to s is, with T(s,u) the transition of F − B,

        z_s = T(s,t) (I + (s − t) B) z_t + ∫_t^s T(s,u) ½ G Gᵀ L_u⁻ᵀ du ε.

    B = 0 is the exponential integrator, B = λI is λ-DDIM-I and B = λ·(all ones) is λ-DDIM-II. Any
    λ has order 1. The paper searches for the best λ at each number of evaluations.
    """

    def __init__(
        self,
        process: LinearProcess,
        grid: Tensor,
        device: torch.device,
        settings: ConjugateSettings,
    ) -> None:
        """Tabulate the steps between the descending forward times of `grid`."""
        start, end = grid[:-1], grid[1:]
        k, p = process.blocks, process.predicted
        self.times = start.tolist()
        self.ends = self.replacement_times = end.tolist()
        identity = torch.eye(k, dtype=torch.float64)
        kinds = {"identity": identity, "ones": torch.ones(k, k, dtype=torch.float64)}
        B = settings.strength * kinds[settings.conjugation]
        transition, weight = _coefficients(process, B, start, end)
        euler = identity + (end - start)[:, None, None] * B
        self.state = table(transition @ euler, device)
        self.weight = table(weight, device)
        self.eps = torch.eye(process.predicted_blocks, device=device)
        self.projection = table(-process.covariance_factor(start).mT[:, p], device)
        """−Lᵀ in the predicted blocks: turns a guide's score into ε."""

    def step(self, index: int, z: Tensor, score: Score, noise: Noise) -> Tensor:
        eps = score(z, self.times[index], self.eps, self.projection[index])
        return mix(self.state[index], z) + mix(self.weight[index], eps)


def _coefficients(
    process: LinearProcess, B: Tensor, start: Tensor, end: Tensor
) -> tuple[Tensor, Tensor]:
    """Tabulate the steps from N times t to N times s.

    Returns T(s,t), N×k×k, and ∫_t^s T(s,u) ½ G Gᵀ L_u⁻ᵀ du on the predicted blocks, N×k×p.
    """
    nodes, node_weights = gauss_log_times(start, end)
    stops = torch.cat([start[:, None], nodes, end[:, None]], dim=1)
    transition = torch.eye(process.blocks, dtype=torch.float64).expand(len(end), -1, -1)
    transitions = []
    for index in reversed(range(stops.shape[1] - 1)):
        transition = transition @ _transition(process, B, stops[:, index], stops[:, index + 1])
        transitions.append(transition)
    whole, *from_nodes = reversed(transitions)
    flat = nodes.flatten()
    density = -0.5 * process.diffusion_squared(flat) @ process.score_matrix(flat)
    density = density.unflatten(0, nodes.shape)
    summands = node_weights[:, :, None, None] * torch.stack(from_nodes, dim=1) @ density
    return whole, summands.sum(dim=1)


def _transition(process: LinearProcess, B: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Return the transition of F − B between N times, N×k×k, by a Magnus step of order 6."""
    span = end - start
    rates = (process.drift(start + share * span) - B for share in GAUSS_3)
    return torch.linalg.matrix_exp(magnus(*(span[:, None, None] * rate for rate in rates)))
