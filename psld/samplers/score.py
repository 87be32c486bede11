"""The score s(z, t) ≈ ∇ log p_t(z) that integrators consume, and the count of its evaluations."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from psld.processes.linear import mix

Network = Callable[[Tensor, Tensor], Tensor]
"""ε(z, t): N×kC×H×W states and N forward times → N×pC×H×W."""


class Score(Protocol):
    """A score function over a whole shard, evaluated at one forward time."""

    evaluations: int
    """Network evaluations per image so far (NFE)."""

    def __call__(self, z: Tensor, t: float, matrix: Tensor) -> Tensor:
        """The score at z.

        Args:
            z: N×kC×H×W.
            t: forward time.
            matrix: `process.score_matrix` at t, k×p.

        Returns:
            N×kC×H×W.
        """
        ...


class NetworkScore:
    """The score of an ε-network: −L⁻ᵀ ε(z, t), evaluated in batches of the shard."""

    def __init__(self, network: Network, batch_size: int) -> None:
        self.network = network
        self.batch_size = batch_size
        self.evaluations = 0

    def __call__(self, z: Tensor, t: float, matrix: Tensor) -> Tensor:
        self.evaluations += 1
        eps = [self.network(part, times_like(part, t)) for part in z.split(self.batch_size)]
        return mix(matrix, torch.cat(eps))


def times_like(z: Tensor, t: float) -> Tensor:
    """The forward time t once a sample, as networks take it: shape (N,), float32."""
    return torch.full((len(z),), t, dtype=torch.float32, device=z.device)
