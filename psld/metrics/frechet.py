"""The Fréchet distance between two sets of features, each taken as a Gaussian."""

import torch
from torch import Tensor

from psld.metrics.statistics import FeatureStatistics
from psld.utils.errors import RunError, UserError


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """|μ₁ − μ₂|² + Tr(C₁ + C₂ − 2 (C₁C₂)^½), in float64 (Heusel et al. 2017, eq. 6).

    With C₁ = AAᵀ and C₂ = BBᵀ the eigenvalues of C₁C₂ are those of (AᵀB)(AᵀB)ᵀ, so the trace of the
    square root is the sum of the singular values of AᵀB. No square root of a rounding error is ever
    taken, and singular covariances (fewer samples than features) need no special case.

    Raises UserError when the dimensions differ or a set has fewer than two samples, and RunError
    when features were NaN or infinite.
    """
    if a.dimension != b.dimension:
        raise UserError(
            f"statistics of {a.dimension} and of {b.dimension} features cannot be compared: "
            "they are of different extractors"
        )
    difference = a.mean.cpu() - b.mean.cpu()
    covariance_a, covariance_b = a.covariance.cpu(), b.covariance.cpu()
    _check_finite(covariance_a)
    _check_finite(covariance_b)
    cross = torch.linalg.svdvals(_factor(covariance_a).T @ _factor(covariance_b)).sum()
    distance = difference.square().sum() + covariance_a.trace() + covariance_b.trace() - 2 * cross
    return max(distance.item(), 0.0)  # equal statistics give zero up to rounding, either side of it


def _factor(covariance: Tensor) -> Tensor:
    """A, d×r, with AAᵀ = covariance, where r is its numerical rank."""
    eigenvalues, eigenvectors = torch.linalg.eigh(covariance)
    noise = eigenvalues.abs().max() * covariance.shape[0] * torch.finfo(covariance.dtype).eps
    kept = eigenvalues > noise
    return eigenvectors[:, kept] * eigenvalues[kept].sqrt()


def _check_finite(covariance: Tensor) -> None:
    if not covariance.isfinite().all():
        raise RunError("the features hold NaN or infinity: the images or the extractor are broken")
