"""Matrices on blocks: applied to states, checked, and the Gaussian kernel that they define."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from psld.utils.errors import UserError

Vector = Tensor | Sequence[float]
Matrix = Tensor | Sequence[Sequence[float]]

LARGEST = 1e9
"""The largest coefficient of a process: of larger ones, differences near 1 have too few digits."""

TERMS = 24
"""Terms of a series in τ with 2‖A‖τ ≤ 1; the omitted terms are below 1e-23."""


def mix(matrix: Tensor, z: Tensor) -> Tensor:
    """Apply a block matrix to a state: out_i = Σ_j matrix_ij z_j.

    The products are elementwise: a matrix product would round a state to TF32 on a GPU, or to
    bfloat16 under autocast.

    Args:
        matrix: k×j, or N×k×j with one matrix per sample; cast to the type of z.
        z: N×(j·C)×H×W.

    Returns:
        N×(k·C)×H×W.
    """
    rows, columns = matrix.shape[-2:]
    samples, channels = z.shape[:2]
    first, *blocks = z.reshape(samples, columns, 1, -1).unbind(1)
    # Each column, (N×)k×1, multiplies one block, N×1×(C·H·W).
    factors = matrix.to(z.device, z.dtype, non_blocking=True)[..., None].unbind(-2)
    mixed = factors[0] * first
    for factor, block in zip(factors[1:], blocks, strict=True):
        mixed = torch.addcmul(mixed, factor, block)
    return mixed.reshape(samples, rows * channels // columns, *z.shape[2:])


def table(matrices: Tensor, device: torch.device) -> Tensor:
    """Convert coefficients for use in steps: float32 on the device."""
    return matrices.to(device, torch.float32)


def predicted_text(prediction: object) -> str:
    """Return the shape that a network predicts; of what is no tensor, the type."""
    kind = f"a {type(prediction).__name__} in place of a tensor"
    return f"{tuple(prediction.shape)}" if isinstance(prediction, Tensor) else kind


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
        """Return Φ, …×k×k, after elapsed times τ of any shape … and any sign."""
        doublings = self._doublings(elapsed)
        phi = _series(self.transition_series, elapsed / 2**doublings)
        for _ in range(doublings):
            phi = phi @ phi
        return phi

    def moments(self, elapsed: Tensor) -> tuple[Tensor, Tensor]:
        """Return (Φ, C), both …×k×k, after elapsed times τ ≥ 0 of any shape …."""
        doublings = self._doublings(elapsed)
        tau = elapsed / 2**doublings
        phi = _series(self.transition_series, tau)
        covariance = tau[..., None, None] * _series(self.covariance_series, tau)
        for _ in range(doublings):
            covariance = covariance + phi @ covariance @ phi.mT
            phi = phi @ phi
        return phi, covariance

    def _doublings(self, elapsed: Tensor) -> int:
        """Return how often the longest time is halved until 2‖A‖τ ≤ 1."""
        longest = 2 * self.norm * max(elapsed.abs().flatten().tolist(), default=0.0)
        return max(0, math.ceil(math.log2(longest))) if longest > 0 else 0


def _series(coefficients: Tensor, tau: Tensor) -> Tensor:
    """Return Σ_n coefficients_n τⁿ, …×k×k."""
    return torch.tensordot(torch.linalg.vander(tau, N=len(coefficients)), coefficients, dims=1)


def semidefinite_root(D: Tensor) -> Tensor:
    """Return the symmetric square root of D, which may be singular (CLD)."""
    values, vectors = torch.linalg.eigh(D)
    return vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T


def as_float64(**arrays: Matrix | Vector) -> list[Tensor]:
    """Return D, Q, S and initial_variance on the CPU. Raises UserError unless all fit k blocks."""
    names = ", ".join(arrays)
    try:
        tensors = [torch.as_tensor(v, dtype=torch.float64, device="cpu") for v in arrays.values()]
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"process: {names} must be numbers ({error})") from None
    k = tensors[2].numel()
    if not k or [x.shape for x in tensors] != [(k, k), (k, k), (k,), (k,)]:
        shapes = (f"{name} {tuple(x.shape)}" for name, x in zip(arrays, tensors, strict=True))
        raise UserError(
            "process: D and Q must be k×k matrices, S and initial_variance k variances, for k "
            f"blocks; got the shapes {', '.join(shapes)}"
        )
    if not all((x.abs() <= LARGEST).all() for x in tensors):
        raise UserError(f"process: {names} must be finite, and at most {LARGEST:g}")
    return tensors


def as_times(t: Tensor | float | Sequence[float]) -> Tensor:
    """Return times or noise levels as the coefficients need them: N float64, on the CPU."""
    return torch.atleast_1d(torch.as_tensor(t, dtype=torch.float64, device="cpu"))


def check_recipe(D: Tensor, Q: Tensor, S: Tensor, initial_variance: Tensor) -> None:
    """Raise UserError unless D, Q and S fit the recipe (paper, Eqs. 2–4) and x₀ has no noise."""
    if not torch.allclose(D, D.T) or torch.linalg.eigvalsh(D).min() < -1e-12:
        raise UserError(
            f"process: D must be symmetric and positive semi-definite, got {D.tolist()}"
        )
    if not torch.allclose(Q, -Q.T):
        raise UserError(f"process: Q must be skew-symmetric (Q = −Qᵀ), got {Q.tolist()}")
    if S.min() <= 0:
        raise UserError(f"process: the stationary variances S must be positive, got {S.tolist()}")
    if initial_variance[0] != 0 or initial_variance.min() < 0:
        raise UserError(
            "process: initial_variance must be 0 for the image and not negative elsewhere, "
            f"got {initial_variance.tolist()}"
        )


def check_schedule(beta: Any) -> None:
    """Raise UserError if β is negative somewhere on [0, 1]."""
    if not (beta(torch.linspace(0, 1, 101, dtype=torch.float64)) >= 0).all():
        raise UserError(f"process: β(t) must not be negative on [0, 1], got {beta}")


def check_convergence(rate: Tensor, elapsed: float) -> None:
    """Raise UserError unless every mode of the drift decays, in numbers that can be computed.

    D ⪰ 0 is not enough: D = 0 is a pure rotation.

    Args:
        elapsed: ∫β over the whole time.
    """
    if not float(rate.norm()) * elapsed <= LARGEST:
        raise UserError(
            f"process: (D + Q) S⁻¹ ∫β has the norm {float(rate.norm()) * elapsed:.3g}; at most "
            f"{LARGEST:g} can be computed: lower β (beta_min, beta_max), D or Q, or raise S"
        )
    slowest = torch.linalg.eigvals(rate).real.min()
    if slowest <= 1e-12:
        raise UserError(
            "process: it does not converge to N(0, S): (D + Q) S⁻¹ has an eigenvalue with real "
            f"part {slowest:.3g}; give noise (D) to a block that all others turn into (Q)"
        )
