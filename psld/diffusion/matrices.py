"""The matrices of a process as its user gives them: converted and checked."""

from collections.abc import Sequence

import torch
from torch import Tensor

from psld.utils.errors import UserError

Vector = Tensor | Sequence[float]
Matrix = Tensor | Sequence[Sequence[float]]


def as_float64(**given: Matrix | Vector) -> list[Tensor]:
    """Return D, Q, S and initial_variance on the CPU. Raises UserError unless all fit k blocks."""
    try:
        found = [torch.as_tensor(v, dtype=torch.float64, device="cpu") for v in given.values()]
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"process: {', '.join(given)} must be numbers ({error})") from None
    k = found[2].numel()
    if not k or [one.shape for one in found] != [(k, k), (k, k), (k,), (k,)]:
        shapes = (f"{name} {tuple(one.shape)}" for name, one in zip(given, found, strict=True))
        raise UserError(
            "process: D and Q must be k×k matrices, S and initial_variance k variances, for k "
            f"blocks; got the shapes {', '.join(shapes)}"
        )
    if not all(one.isfinite().all() for one in found):
        raise UserError(f"process: {', '.join(given)} must be finite")
    return found


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


def check_convergence(rate: Tensor) -> None:
    """Raise UserError unless every mode of the drift decays.

    D ⪰ 0 is not enough: D = 0 is a pure rotation.
    """
    slowest = torch.linalg.eigvals(rate).real.min()
    if slowest <= 1e-12:
        raise UserError(
            "process: it does not converge to N(0, S): (D + Q) S⁻¹ has an eigenvalue with real "
            f"part {slowest:.3g}; give noise (D) to a block that all others turn into (Q)"
        )
