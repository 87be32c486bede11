"""The Gaussian kernel of a linear SDE with constant coefficients, exact entry by entry."""

import math

import torch
from torch import Tensor

TERMS = 24
"""Terms of the series; the first one left out is below 1e-23 of the first one that is not 0."""


class LinearKernel:
    """Mean and covariance of dz = −A z dτ + √(2D) dw, started from a known state.

        Φ(τ) = exp(−A τ),      C(τ) = ∫₀^τ Φ(u) 2D Φ(u)ᵀ du

    C is the solution of Ċ = 2D − A C − C Aᵀ, so its power series has the coefficients

        C(τ) = Σ_{n≥1} C_n τⁿ/n!,      C₁ = 2D,      C_{n+1} = −(A C_n + C_n Aᵀ).

    An entry that starts with τ³ or τ⁵, as the variance of a position that gets its noise through a
    momentum, has coefficients that are exactly 0 before that, so nothing cancels as τ → 0. The
    closed form S − Φ S Φᵀ would lose all digits there. Longer times are reached by doubling,
    C(2τ) = C(τ) + Φ(τ) C(τ) Φ(τ)ᵀ.
    """

    def __init__(self, A: Tensor, D: Tensor) -> None:
        """`A` and `D`: k×k, float64."""
        self.A = A
        self.norm = float(torch.linalg.matrix_norm(A))
        terms = [2 * D]
        for n in range(2, TERMS + 1):
            terms.append(-(A @ terms[-1] + terms[-1] @ A.T) / n)
        self.series = torch.stack(terms)

    def transition(self, elapsed: Tensor) -> Tensor:
        """Φ, N×k×k, after N elapsed times τ."""
        return torch.linalg.matrix_exp(-self.A * elapsed[:, None, None])

    def moments(self, elapsed: Tensor) -> tuple[Tensor, Tensor]:
        """(Φ, C), both N×k×k, after N elapsed times τ ≥ 0."""
        longest = 2 * self.norm * float(elapsed.max())
        doublings = max(0, math.ceil(math.log2(longest))) if longest > 0 else 0
        tau = elapsed / 2**doublings
        powers = tau[:, None] ** torch.arange(1, TERMS + 1, dtype=torch.float64)
        covariance = torch.tensordot(powers, self.series, dims=1)
        phi = self.transition(tau)
        for _ in range(doublings):
            covariance = covariance + phi @ covariance @ phi.mT
            phi = phi @ phi
        return phi, covariance
