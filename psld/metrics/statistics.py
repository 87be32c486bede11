"""Mean and covariance of features, gathered shard by shard as sums n, Σx and Σxxᵀ."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from psld.utils.errors import UserError
from psld.utils.files import atomic_path


class FeatureStatistics:
    """The sufficient statistics (n, Σx, Σxxᵀ) of features in R^d, in float64.

        statistics = FeatureStatistics(extractor.dimension)
        for features in batches:
            statistics.update(features)
        statistics = statistics + FeatureStatistics.load("other_shard.safetensors")
        statistics.mean, statistics.covariance

    The cut into batches and shards changes the result only by rounding.
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

    def merge(self, other: "FeatureStatistics") -> None:
        """Add the samples of `other`. Raises UserError if the dimensions differ."""
        self._check_same_dimension(other)
        self.count += other.count
        self.sum += other.sum.to(self.sum.device)
        self.outer += other.outer.to(self.outer.device)

    def __add__(self, other: "FeatureStatistics") -> "FeatureStatistics":
        total = FeatureStatistics(self.dimension, self.sum.device)
        total.merge(self)
        total.merge(other)
        return total

    def __sub__(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Return the statistics without the samples of `other`, which must be included."""
        self._check_same_dimension(other)
        rest = FeatureStatistics(self.dimension, self.sum.device)
        rest.count = self.count - other.count
        rest.sum = self.sum - other.sum.to(self.sum.device)
        rest.outer = self.outer - other.outer.to(self.outer.device)
        return rest

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

    def save(self, path: str | Path) -> None:
        """Write a safetensors file atomically."""
        tensors = {"sum": self.sum.cpu(), "outer": self.outer.cpu()}
        with atomic_path(path) as partial:
            partial.write_bytes(serialise(tensors, metadata={"count": str(self.count)}))

    @classmethod
    def load(cls, path: str | Path) -> "FeatureStatistics":
        """Read a file of `save`. Raises UserError if it is missing, damaged or foreign."""
        try:
            with safe_open(path, framework="pt") as file:
                statistics = cls(file.get_slice("sum").get_shape()[0])
                statistics.count = int((file.metadata() or {})["count"])
                statistics.sum.copy_(file.get_tensor("sum"))
                statistics.outer.copy_(file.get_tensor("outer"))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file") from None
        except (SafetensorError, KeyError, IndexError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{path}: not a whole file of feature statistics ({error}); make it again"
            ) from None
        return statistics

    def _check_count(self, needed: int) -> None:
        if self.count < needed:
            raise UserError(
                f"feature statistics of {self.count} images: at least {needed} are needed"
            )

    def _check_same_dimension(self, other: "FeatureStatistics") -> None:
        if self.dimension != other.dimension:
            raise UserError(
                f"statistics of {self.dimension} and of {other.dimension} features cannot be added:"
                " they are of different extractors"
            )
