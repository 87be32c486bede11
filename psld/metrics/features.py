"""The features of images, and their statistics."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Self

import torch
from torch import Tensor

from psld.metrics.blocks import BLOCKS, Blocks, assign_blocks, distinct_numbers
from psld.utils.errors import RunError, UserError
from psld.utils.tensors import as_arrays, digest_of_arrays

Device = torch.device | str


def finite(features: Tensor) -> Tensor:
    """Return features, or statistics of them, as they are. Raises RunError if one is not finite."""
    if not features.isfinite().all():
        raise RunError("the features hold NaN or infinity: the images or the extractor are broken")
    return features


@dataclass(frozen=True)
class FeatureStatistics:
    """The sufficient statistics (n, Σx, Σxxᵀ) of features in R^d, in float64; parts of them add."""

    count: int
    sum: Tensor
    outer: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Self:
        """Return the statistics of features, n×d, on their device."""
        x = features.double()
        return cls(len(x), x.sum(dim=0), x.T @ x)

    @classmethod
    def of_moments(cls, mean: Tensor, covariance: Tensor, count: int = 2) -> Self:
        """Return statistics with this mean, d, and covariance, d×d, of unknown samples."""
        mean, covariance = mean.double(), covariance.double()
        outer = (count - 1) * covariance + count * torch.outer(mean, mean)
        return cls(count, count * mean, outer)

    @classmethod
    def of_tensors(cls, count: int, mean: Tensor, triangle: Tensor) -> Self:
        """Return the statistics that have these `tensors`, up to rounding."""
        covariance = triangle.new_zeros(len(mean), len(mean))
        rows, columns = torch.triu_indices(*covariance.shape)
        covariance[rows, columns] = covariance[columns, rows] = triangle
        return cls.of_moments(mean, covariance, count)

    def tensors(self) -> dict[str, Tensor]:
        """Return the mean, and the upper triangle of the covariance, d(d + 1)/2, by name."""
        rows, columns = torch.triu_indices(*self.outer.shape)
        return {"mean": self.mean, "triangle": self.covariance[rows, columns]}

    def __add__(self, other: Self) -> Self:
        sums = self.sum + other.sum, self.outer + other.outer
        return type(self)(self.count + other.count, *sums)

    def __sub__(self, other: Self) -> Self:
        """Return the statistics without the samples of `other`, which must be included."""
        sums = self.sum - other.sum, self.outer - other.outer
        return type(self)(self.count - other.count, *sums)

    @property
    def total(self) -> Self:
        """The statistics themselves: of a reference whose images are not known."""
        return self

    def on(self, device: torch.device | str) -> Tensor:
        """Raise UserError: there are no features of single images."""
        known = "the reference has statistics (mu, sigma), enough for Fréchet distances alone"
        raise UserError(f"{known}; give its images")

    @property
    def mean(self) -> Tensor:
        """The sample mean, d."""
        return self.sum / self.count

    @property
    def covariance(self) -> Tensor:
        """The unbiased sample covariance, d×d. Raises UserError with fewer than two samples."""
        if self.count < 2:
            raise UserError(f"feature statistics of {self.count} images: at least 2 are needed")
        scatter = self.outer - self.count * torch.outer(self.mean, self.mean)
        return scatter / (self.count - 1)


@dataclass(frozen=True)
class Features:
    """Features of images 0, …, n − 1, on the CPU; 410 MB for 50,000 images with Inception."""

    values: Tensor
    """float32, n×d."""
    logits: Tensor | None = None
    """float32, n×classes; None if the extractor is not a classifier."""
    numbers: Tensor | None = None
    """int64, n: `distinct_numbers` of images of others; None for a cell, whose blocks pair it."""

    def __len__(self) -> int:
        return len(self.values)

    def on(self, device: torch.device | str) -> Tensor:
        """Return the values, n×d, on a device. Raises RunError if one is not finite."""
        return finite(self.values).to(device)

    def tensors(self) -> dict[str, Tensor]:
        """Return values and logits by name."""
        return {"values": self.values} | ({} if self.logits is None else {"logits": self.logits})

    def first(self, n: int) -> Self:
        return type(self)(**{name: each[:n] for name, each in self.tensors().items()})

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return the features of all parts in their order, on the CPU."""
        tensors = [part.tensors() for part in parts]
        joined = {name: torch.cat([each[name] for each in tensors]).cpu() for name in tensors[0]}
        return cls(**joined)

    def numbered(self) -> Self:
        """Return the features with `numbers`; of a dataset's images only features were kept."""
        numbers = distinct_numbers(self.values.numpy()) if self.numbers is None else self.numbers
        return replace(self, numbers=numbers)

    def blocks(self, count: int = BLOCKS) -> Blocks:
        """Return the blocks of a jackknife, each image in that of its copies."""
        return assign_blocks(len(self) if self.numbers is None else self.numbers, count)

    @cached_property
    def total(self) -> FeatureStatistics:
        """n, Σx and Σxxᵀ of all features."""
        first, *others = (FeatureStatistics.of(part) for part in self.values.split(10_000))
        return sum(others, start=first)


class Reference(NamedTuple):
    """The images that samples are compared with, and those that give a metric its scale."""

    train: Features | FeatureStatistics
    """Of the training split, or of other images; statistics if the images are not known."""
    test: Features | None
    """None if the dataset has no test split."""
    noise: Features | None
    """Standard normal noise, quantized as samples are; None for a reference of other images."""
    compared: str = "train"
    """The split that samples are compared with."""
    cache: dict[str, Tensor] | None = None
    """What was computed of these images alone; None: each time again."""

    def once(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """Return what depends on these images alone, from `cache` if it is there."""
        if self.cache is None:
            return compute()
        key = f"{self.compared} {name}"
        if key not in self.cache:
            self.cache[key] = compute()
        return self.cache[key]

    def number(self, name: str, compute: Callable[[], float]) -> float:
        """Return a number as `once` does a tensor."""
        return self.once(name, lambda: torch.tensor(compute(), dtype=torch.float64)).item()

    @property
    def images(self) -> Features | FeatureStatistics:
        """Those that samples are compared with. Raises UserError if there are none."""
        return self.split(self.compared)

    @property
    def held_out(self) -> Features | FeatureStatistics | None:
        """Real images that samples are not compared with; None if there are none."""
        return self.train if self.compared == "test" else self.test

    def split(self, name: str) -> Features | FeatureStatistics:
        """Return the images of `train` or `test`. Raises UserError if there are none."""
        images = self.train if name == "train" else self.test
        if images is None:
            raise UserError("the reference has no test images; choose another reference_split")
        return images


def digest_of_weights(architecture: str, weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of an architecture's description and its weights' names and values."""
    return digest_of_arrays("weights", as_arrays(weights), {"architecture": architecture})
