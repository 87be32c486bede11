"""Mean and covariance of features, gathered as sums n, Σx and Σxxᵀ."""

import torch
from torch import Tensor

from psld.utils.errors import UserError


class FeatureStatistics:
    """The sufficient statistics (n, Σx, Σxxᵀ) of features in R^d, in float64.

        statistics = FeatureStatistics(extractor.dimension)
        for features in batches:
            statistics.update(features)
        statistics.mean, statistics.covariance

    The cut into batches changes the result only by rounding.
    """

    def __init__(self, dimension: int, device: torch.device | str = "cpu") -> None:
        self.count = 0
        self.sum = torch.zeros(dimension, dtype=torch.float64, device=device)
        self.outer = torch.zeros(dimension, dimension, dtype=torch.float64, device=device)

    @property
    def dimension(self) -> int:
        return self.sum.shape[0]

    def update(self, features: Tensor) -> None:
        """Add features, n×d, without waiting for the device."""
        features = features.detach().to(self.sum.device, torch.float64)
        self.count += features.shape[0]
        self.sum += features.sum(dim=0)
        self.outer.addmm_(features.T, features)

    def __add__(self, other: "FeatureStatistics") -> "FeatureStatistics":
        return self._combine(other, 1)

    def __sub__(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Return the statistics without the samples of `other`, which must be included."""
        return self._combine(other, -1)

    def _combine(self, other: "FeatureStatistics", sign: int) -> "FeatureStatistics":
        if self.dimension != other.dimension:
            raise UserError(
                f"statistics of {self.dimension} and of {other.dimension} features cannot be added:"
                " they are of different extractors"
            )
        result = FeatureStatistics(self.dimension, self.sum.device)
        result.count = self.count + sign * other.count
        result.sum = self.sum + sign * other.sum
        result.outer = self.outer + sign * other.outer
        return result

    @property
    def mean(self) -> Tensor:
        """The sample mean, d. Raises UserError without samples."""
        self._check_count(1)
        return self.sum / self.count

    @property
    def covariance(self) -> Tensor:
        """The unbiased sample covariance, d×d. Raises UserError with fewer than two samples."""
        self._check_count(2)
        return self.scatter / (self.count - 1)

    @property
    def scatter(self) -> Tensor:
        """Σ(x − x̄)(x − x̄)ᵀ, d×d. Raises UserError without samples."""
        mean = self.mean
        return self.outer - self.count * torch.outer(mean, mean)

    def _check_count(self, needed: int) -> None:
        if self.count < needed:
            raise UserError(
                f"feature statistics of {self.count} images: at least {needed} are needed"
            )
