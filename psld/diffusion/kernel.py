"""The Gaussian kernel of a linear SDE with constant coefficients, exact in every entry."""

import math

import torch
from torch import Tensor

TERMS = 24
"""Terms of a series in τ with 2‖A‖τ ≤ 1; the omitted terms are below 1e-23."""


class LinearKernel:
    """Mean and covariance of dz = −A z dτ + √(2D) dw, started from a known state.

        Φ(τ) = exp(−A τ),      C(τ) = ∫₀^τ Φ(u) 2D Φ(u)ᵀ du

    C is the solution of Ċ = 2D − A C − C Aᵀ, so its power series has the coefficients

        C(τ) = Σ_{n≥1} C_n τⁿ/n!,      C₁ = 2D,      C_{n+1} = −(A C_n + C_n Aᵀ).

    Some entries start with τ³ or τ⁵, such as the variance of a position that gets its noise through
    a momentum. Their lower coefficients are exactly 0, so nothing cancels as τ → 0. The closed form
    S − Φ S Φᵀ would lose all digits there. Doubling gives longer times,
    C(2τ) = C(τ) + Φ(τ) C(τ) Φ(τ)ᵀ.
    """

    def __init__(self, A: Tensor, D: Tensor) -> None:
        """`A` and `D`: k×k, float64."""
        self.norm = float(torch.linalg.matrix_norm(A))
        powers, covariances = [torch.eye(len(A), dtype=torch.float64)], [2 * D]
        for n in range(1, TERMS):
            powers.append(-(A @ powers[-1]) / n)
            last = covariances[-1]
            covariances.append(-(A @ last + last @ A.T) / (n + 1))
        self.transition_series = torch.stack(powers)
        self.covariance_series = torch.stack(covariances)

    def transition(self, elapsed: Tensor) -> Tensor:
        """Return Φ, N×k×k, after N elapsed times τ of any sign."""
        doublings = self._doublings(elapsed)
        phi = _series(self.transition_series, elapsed / 2**doublings)
        for _ in range(doublings):
            phi = phi @ phi
        return phi

    def moments(self, elapsed: Tensor) -> tuple[Tensor, Tensor]:
        """Return (Φ, C), both N×k×k, after N elapsed times τ ≥ 0."""
        doublings = self._doublings(elapsed)
        tau = elapsed / 2**doublings
        phi = _series(self.transition_series, tau)
        covariance = tau[:, None, None] * _series(self.covariance_series, tau)
        for _ in range(doublings):
            covariance = covariance + phi @ covariance @ phi.mT
            phi = phi @ phi
        return phi, covariance

    def _doublings(self, elapsed: Tensor) -> int:
        """Return how often the longest time is halved until 2‖A‖τ ≤ 1."""
        longest = 2 * self.norm * float(elapsed.abs().max())
        return max(0, math.ceil(math.log2(longest))) if longest > 0 else 0


def _series(coefficients: Tensor, tau: Tensor) -> Tensor:
    """Return Σ_n coefficients_n τⁿ, N×k×k."""
    return torch.tensordot(torch.linalg.vander(tau, N=len(coefficients)), coefficients, dims=1)
