"""Block matrices: application to states, checks, and the Gaussian kernel of a linear SDE."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from psld.utils.errors import UserError

Vector = Tensor | Sequence[float]
Matrix = Tensor | Sequence[Sequence[float]]

LARGEST = 1e9
"""The largest coefficient of a process. Larger coefficients lose too many digits to rounding."""

TERMS = 24
"""Terms of a series in τ with 2‖A‖τ ≤ 1; the omitted terms are below 1e-23."""


def mix(matrix: Tensor, z: Tensor) -> Tensor:
    """Apply a block matrix to a state: out_i = Σ_j matrix_ij z_j.

    The products are elementwise, because a matrix product would round the state to TF32 on a GPU
    or to bfloat16 under autocast.

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
    """Return coefficients in float32 on the device, as integrator steps use them."""
    return matrices.to(device, torch.float32, non_blocking=True)


def predicted_text(prediction: object) -> str:
    """Describe a prediction for error messages: the shape of a tensor, else the type."""
    kind = f"a {type(prediction).__name__} in place of a tensor"
    return f"{tuple(prediction.shape)}" if isinstance(prediction, Tensor) else kind


class LinearKernel:
    """Mean and covariance of dz = −A z dτ + √(2D) dw from a known initial state.

        Φ(τ) = exp(−A τ),      C(τ) = ∫₀^τ Φ(u) 2D Φ(u)ᵀ du

    C solves Ċ = 2D − A C − C Aᵀ. The power series of C therefore has the coefficients

        C(τ) = Σ_{n≥1} C_n τⁿ/n!,      C₁ = 2D,      C_{n+1} = −(A C_n + C_n Aᵀ).

    The leading term of some entries is τ³ or τ⁵, as for the variance of a position that receives
    its noise through a momentum. The lower coefficients of these entries are exactly 0, so nothing
    cancels as τ → 0, where the closed form S − Φ S Φᵀ would lose all digits. Longer times follow by
    doubling: C(2τ) = C(τ) + Φ(τ) C(τ) Φ(τ)ᵀ.
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
        """Return Φ(τ), …×k×k, for elapsed times τ of any shape … and any sign."""
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
        """Return the number of halvings of the longest time that give 2‖A‖τ ≤ 1."""
        longest = 2 * self.norm * max(elapsed.abs().flatten().tolist(), default=0.0)
        return max(0, math.ceil(math.log2(longest))) if longest > 0 else 0


def _series(coefficients: Tensor, tau: Tensor) -> Tensor:
    """Return Σ_n coefficients_n τⁿ, …×k×k."""
    return torch.tensordot(torch.linalg.vander(tau, N=len(coefficients)), coefficients, dims=1)


def semidefinite_root(D: Tensor) -> Tensor:
    """Return the symmetric square root of D, which may be singular, as in CLD."""
    values, vectors = torch.linalg.eigh(D)
    return vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T


def as_float64(**arrays: Matrix | Vector) -> list[Tensor]:
    """Return D, Q, S and initial_variance in float64 on the CPU.

    Raises UserError for wrong shapes.
    """
    names = ", ".join(arrays)
    try:
        tensors = [torch.as_tensor(v, dtype=torch.float64, device="cpu") for v in arrays.values()]
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"process: {names} must be numbers ({error})") from None
    k = tensors[2].numel()
    if not k or [x.shape for x in tensors] != [(k, k), (k, k), (k,), (k,)]:
        shapes = (f"{name} {tuple(x.shape)}" for name, x in zip(arrays, tensors, strict=True))
        raise UserError(
            "process: D and Q must be k×k matrices, and S and initial_variance k variances, for k "
            f"blocks; got the shapes {', '.join(shapes)}"
        )
    if not all((x.abs() <= LARGEST).all() for x in tensors):
        raise UserError(f"process: {names} must be finite and at most {LARGEST:g} in magnitude")
    return tensors


def as_times(t: Tensor | float | Sequence[float]) -> Tensor:
    """Return times or noise levels as a float64 tensor on the CPU, with at least one dimension."""
    return torch.atleast_1d(torch.as_tensor(t, dtype=torch.float64, device="cpu"))


def check_recipe(D: Tensor, Q: Tensor, S: Tensor, initial_variance: Tensor) -> None:
    """Raise UserError unless the matrices satisfy the recipe (paper, Eqs. 2–4)."""
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
            "process: initial_variance must be 0 for the image, and not negative for other blocks, "
            f"got {initial_variance.tolist()}"
        )


def check_schedule(beta: Any) -> None:
    """Raise UserError if β is negative somewhere on [0, 1]."""
    if not (beta(torch.linspace(0, 1, 101, dtype=torch.float64)) >= 0).all():
        raise UserError(f"process: β(t) must not be negative on [0, 1], got {beta}")


def check_convergence(rate: Tensor, elapsed: float) -> None:
    """Raise UserError unless every mode of the drift decays and the drift's norm is small enough.

    D ⪰ 0 is not sufficient: D = 0 gives a pure rotation.

    Args:
        rate: (D + Q) S⁻¹.
        elapsed: ∫β from 0 to T.
    """
    if not float(rate.norm()) * elapsed <= LARGEST:
        raise UserError(
            f"process: the norm of (D + Q) S⁻¹ ∫β is {float(rate.norm()) * elapsed:.3g}, above "
            f"{LARGEST:g}; lower β (beta_min, beta_max), D or Q, or raise S"
        )
    slowest = torch.linalg.eigvals(rate).real.min()
    if slowest <= 1e-12:
        raise UserError(
            "process: does not converge to N(0, S), because (D + Q) S⁻¹ has an eigenvalue with "
            f"real part {slowest:.3g}; add noise (D) to a block that Q couples to all others"
        )
