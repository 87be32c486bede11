"""The Fréchet distance between two sets of features, each taken as a Gaussian."""

import torch
from torch import Tensor

from psld.metrics.blocks import BlockStatistics
from psld.metrics.estimate import Estimate
from psld.metrics.statistics import FeatureStatistics
from psld.utils.errors import RunError, UserError


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """Return |μ₁ − μ₂|² + Tr(C₁ + C₂ − 2 (C₁C₂)^½), in float64 (Heusel et al. 2017, eq. 6).

    With C₁ = AAᵀ and C₂ = BBᵀ, the eigenvalues of C₁C₂ are those of (AᵀB)(AᵀB)ᵀ. So the trace of
    the square root is the sum of the singular values of AᵀB. No square root of a rounding error is
    taken, and singular covariances (fewer samples than features) need no special case.

    Raises UserError if the dimensions differ or a set has fewer than two samples, and RunError if
    features are NaN or infinite.
    """
    return _distance(_Gaussian(a), _Gaussian(b))


def frechet_estimate(samples: BlockStatistics, reference: FeatureStatistics) -> Estimate:
    """Return the Fréchet distance with its interval; the reference is taken as fixed.

    Distances of n samples are biased upward by about c / n: `interval` is for their mean,
    `extrapolated` for the distance of the model's distribution. The cost is one distance per block
    plus one: a minute of one core for 20 blocks of 2,048 features (`python -m benchmarks.metrics`).

    Raises as `frechet_distance` does, and UserError with fewer than three samples.
    """
    fixed = _Gaussian(reference)
    return Estimate(
        value=_distance(_Gaussian(samples.total), fixed),
        samples=sum(samples.counts),
        block_samples=tuple(count for count in samples.counts if count > 0),
        without_block=tuple(_distance(_Gaussian(s), fixed) for s in samples.without_each()),
    )


class _Gaussian:
    """The mean of features, and the trace and factor A of their covariance AAᵀ."""

    def __init__(self, statistics: FeatureStatistics) -> None:
        covariance = finite(statistics.covariance.cpu())
        self.mean = statistics.mean.cpu()
        self.trace = covariance.trace()
        self.factor = _factor(covariance)


def _distance(a: _Gaussian, b: _Gaussian) -> float:
    if len(a.mean) != len(b.mean):
        raise UserError(
            f"statistics of {len(a.mean)} and of {len(b.mean)} features cannot be compared: "
            "they are of different extractors"
        )
    cross = torch.linalg.svdvals(a.factor.T @ b.factor).sum()
    distance = (a.mean - b.mean).square().sum() + a.trace + b.trace - 2 * cross
    return max(distance.item(), 0.0)  # equal statistics give 0 up to rounding, of either sign


def _factor(covariance: Tensor) -> Tensor:
    """Return A, d×r, with AAᵀ = covariance and r its numerical rank, by a pivoted Cholesky factor.

    It costs d r² operations: little if there are fewer samples than features.
    """
    # Importing SciPy takes a quarter of a second, and only distances need it.
    from scipy.linalg.lapack import dpstrf

    factor, pivots, rank, _ = dpstrf(covariance.numpy(), lower=1)
    rows = torch.from_numpy(factor).tril()[:, :rank]
    unpivoted = torch.empty_like(rows)
    unpivoted[torch.from_numpy(pivots).long() - 1] = rows
    return unpivoted


def finite(features: Tensor) -> Tensor:
    """Return features, or statistics of them, as they are. Raises RunError if one is not finite."""
    if not features.isfinite().all():
        raise RunError("the features hold NaN or infinity: the images or the extractor are broken")
    return features
