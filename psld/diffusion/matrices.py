"""Block matrices: application to states, conversion, and checks of the recipe."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from psld.utils.errors import UserError

Vector = Tensor | Sequence[float]
Matrix = Tensor | Sequence[Sequence[float]]

LARGEST = 1e9
"""The largest allowed coefficient of a process. Rounding errors are too large above this limit."""


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


def semidefinite_root(D: Tensor) -> Tensor:
    """Return the symmetric square root of D, …×k×k. D may be singular, as in CLD."""
    values, vectors = torch.linalg.eigh(D)
    return vectors @ torch.diag_embed(values.clamp(min=0).sqrt()) @ vectors.mT


def as_float64(**arrays: Matrix | Vector) -> list[Tensor]:
    """Convert matrices, followed by two vectors of variances, to float64 on the CPU.

    Raises UserError unless all arrays are finite and have the same number of blocks.
    """
    names = ", ".join(arrays)
    try:
        tensors = [torch.as_tensor(v, dtype=torch.float64, device="cpu") for v in arrays.values()]
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"process: {names} must be numbers ({error})") from None
    k = tensors[-2].numel()
    if not k or [x.shape for x in tensors] != [(k, k)] * (len(tensors) - 2) + [(k,), (k,)]:
        shapes = (f"{name} {tuple(x.shape)}" for name, x in zip(arrays, tensors, strict=True))
        *matrices, prior, initial = arrays
        needed = f"{' and '.join(matrices)} must be k×k matrices, and " if matrices else ""
        raise UserError(
            f"process: {needed}{prior} and {initial} {'' if matrices else 'must be '}k variances, "
            f"for k blocks; got the shapes {', '.join(shapes)}"
        )
    if not all((x.abs() <= LARGEST).all() for x in tensors):
        raise UserError(f"process: {names} must be finite and at most {LARGEST:g} in magnitude")
    return tensors


def as_times(t: Tensor | float | Sequence[float]) -> Tensor:
    """Return times or noise levels as a float64 tensor on the CPU, with at least one dimension."""
    return torch.atleast_1d(torch.as_tensor(t, dtype=torch.float64, device="cpu"))


def as_coefficient(value: Any, blocks: int) -> Callable[[Tensor], Tensor]:
    """Convert a k×k matrix or a function of times to a function of times, … → …×k×k, float64.

    The given function may return a tensor of matrices, or rows whose entries are numbers or tensors
    in the shape of the times. For k = 1, it may also return one tensor in the shape of the times.

    The returned function raises UserError if the given function returns another shape.
    """

    def evaluate(t: Tensor) -> Tensor:
        found = value(t) if callable(value) else value
        if isinstance(found, list | tuple):
            entries = (torch.as_tensor(each, dtype=torch.float64) for row in found for each in row)
            rows = [len(row) for row in found]
            found = torch.stack([each.expand(t.shape) for each in entries], dim=-1)
            if rows == [blocks] * blocks:
                found = found.unflatten(-1, (blocks, blocks))
        found = torch.as_tensor(found, dtype=torch.float64)
        if blocks == 1 and found.shape in ((), t.shape):
            found = found[..., None, None]
        if found.shape[-2:] != (blocks, blocks):
            raise UserError(
                f"process: a coefficient has the shape {tuple(found.shape)} at times of the shape "
                f"{tuple(t.shape)}; for {blocks} blocks, it must be {blocks}×{blocks} at each time"
            )
        return found.expand(*t.shape, blocks, blocks)

    return evaluate


def check_recipe(D: Tensor, Q: Tensor, S: Tensor) -> None:
    """Raise UserError unless the matrices, …×k×k, satisfy the recipe (paper, Eqs. 2–4)."""
    check_diffusion(D, "D")
    if not torch.allclose(Q, -Q.mT):
        raise UserError(f"process: Q must be skew-symmetric (Q = −Qᵀ), got {Q.tolist()}")
    if S.min() <= 0:
        raise UserError(f"process: the stationary variances S must be positive, got {S.tolist()}")


def check_diffusion(D: Tensor, name: str) -> None:
    """Raise UserError unless the matrices, …×k×k, are symmetric and positive semi-definite."""
    if not torch.allclose(D, D.mT) or _indefinite(D):
        found = D.tolist() if D.ndim == 2 else "other values at some times in [0, 1]"
        raise UserError(
            f"process: {name} must be symmetric and positive semi-definite, got {found}"
        )


def _indefinite(D: Tensor) -> bool:
    """Return whether a matrix has a negative eigenvalue that rounding cannot explain."""
    values = torch.linalg.eigvalsh(D)
    return bool((values[..., 0] < -1e-12 * values[..., -1].clamp(min=0)).any())


def check_initial_variance(variance: Tensor) -> None:
    """Raise UserError unless the variances of z₀ are 0 for the image and ≥ 0 for other blocks."""
    if variance[0] != 0 or variance.min() < 0:
        raise UserError(
            "process: initial_variance must be 0 for the image, and not negative for other blocks, "
            f"got {variance.tolist()}"
        )


def check_schedule(beta: Any) -> None:
    """Raise UserError if β is negative somewhere on [0, 1]."""
    if not (beta(torch.linspace(0, 1, 101, dtype=torch.float64)) >= 0).all():
        raise UserError(f"process: β(t) must not be negative on [0, 1], got {beta}")


def check_convergence(rate: Tensor, elapsed: float) -> None:
    """Raise UserError unless every mode of the drift decays and the drift's norm is small enough.

    D ⪰ 0 alone does not ensure decay: D = 0 gives a pure rotation.

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
