"""Features of images, their moments in total and by block, and the reference of a metric."""

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
    """Return features or their statistics unchanged. Raises RunError if a value is not finite."""
    if not features.isfinite().all():
        raise RunError("the features contain NaN or infinity; check the images and the extractor")
    return features


@dataclass(frozen=True)
class FeatureStatistics:
    """The sufficient statistics (n, Σx, Σxxᵀ) of features in R^d, in float64.

    The statistics of disjoint sets of images can be added.
    """

    count: int
    sum: Tensor
    outer: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Self:
        """Return the statistics of features, n×d, on the device of the features."""
        x = features.double()
        return cls(len(x), x.sum(dim=0), x.T @ x)

    @classmethod
    def of_moments(cls, mean: Tensor, covariance: Tensor, count: int = 2) -> Self:
        """Return statistics with this mean, d, and covariance, d×d; `count` is n."""
        mean, covariance = mean.double(), covariance.double()
        outer = (count - 1) * covariance + count * torch.outer(mean, mean)
        return cls(count, count * mean, outer)

    @classmethod
    def of_tensors(cls, count: int, mean: Tensor, triangle: Tensor) -> Self:
        """Return statistics from their count and the result of `tensors`, up to rounding."""
        covariance = triangle.new_zeros(len(mean), len(mean))
        rows, columns = torch.triu_indices(*covariance.shape)
        covariance[rows, columns] = covariance[columns, rows] = triangle
        return cls.of_moments(mean, covariance, count)

    def tensors(self) -> dict[str, Tensor]:
        """Return the mean, d, and the upper triangle of the covariance, d(d + 1)/2, by name."""
        rows, columns = torch.triu_indices(*self.outer.shape)
        return {"mean": self.mean, "triangle": self.covariance[rows, columns]}

    def __add__(self, other: Self) -> Self:
        sums = self.sum + other.sum, self.outer + other.outer
        return type(self)(self.count + other.count, *sums)

    def __sub__(self, other: Self) -> Self:
        """Return the statistics without the samples of `other`, which must be a subset."""
        sums = self.sum - other.sum, self.outer - other.outer
        return type(self)(self.count - other.count, *sums)

    @property
    def total(self) -> Self:
        """The statistics themselves. `Features` and `BlockMoments` have the same property."""
        return self

    def on(self, device: torch.device | str) -> Tensor:
        """Raise UserError, because statistics do not contain the features of single images."""
        known = "the reference has only statistics (mu, sigma), which suffice for Fréchet distances"
        raise UserError(f"{known}; give its images")

    @property
    def mean(self) -> Tensor:
        """The sample mean, d."""
        return self.sum / self.count

    @property
    def covariance(self) -> Tensor:
        """The unbiased sample covariance, d×d. Raises UserError with fewer than two samples."""
        if self.count < 2:
            raise UserError(f"feature statistics of {self.count} images; at least 2 are needed")
        scatter = self.outer - self.count * torch.outer(self.mean, self.mean)
        return scatter / (self.count - 1)


class BlockMoments:
    """The moments (n, Σx, Σxxᵀ) of features in R^d in each of B blocks of images, in float64.

        moments = BlockMoments(assign_blocks(50_000))
        for part in features:  # m×d, in the order of the images
            moments.add(part)
        moments.total.covariance, moments.without(0).covariance

    The moments take 8·B·d·(d + 1) bytes for any number of images: 671 MB for 20 blocks of Inception
    features.
    """

    def __init__(self, blocks: Blocks, numbers: Tensor | None = None) -> None:
        """
        Args:
            blocks: the blocks of all images whose features will be added.
            numbers: see `Features.numbers`.
        """
        self.numbers, self._blocks, self._added = numbers, blocks, 0
        self._counts: list[int] = blocks.block.bincount().tolist()
        self._sums = self._outers = torch.empty(0)

    def __len__(self) -> int:
        return len(self._blocks.block)

    def add(self, features: Tensor) -> Self:
        """Add the features of the next images, m×d; ignore features after the last image.

        The sums are on the device of the first features. Raises RunError if a value is not finite.
        """
        features = finite(features[: len(self) - self._added])
        block = self._blocks.block[self._added :][: len(features)].to(features.device)
        if not self._added:
            shape = self._blocks.count, features.shape[1]
            self._sums = features.new_zeros(*shape, dtype=torch.float64)
            self._outers = features.new_zeros(*shape, shape[1], dtype=torch.float64)
        for j in block.unique().tolist():
            x = features[block == j].double()
            self._sums[j] += x.sum(dim=0)
            self._outers[j].addmm_(x.T, x)
        self._added += len(features)
        return self

    @cached_property
    def total(self) -> FeatureStatistics:
        """The moments of all images."""
        return FeatureStatistics(len(self), self._sums.sum(dim=0), self._outers.sum(dim=0))

    def without(self, block: int) -> FeatureStatistics:
        """Return the moments of the images that are not in a block."""
        sums = self._sums[block], self._outers[block]
        return self.total - FeatureStatistics(self._counts[block], *sums)

    def blocks(self) -> Blocks:
        """Return the blocks."""
        return self._blocks

    def on(self, device: Device) -> Tensor:
        """Raise TypeError, because moments do not contain the features of single images."""
        raise TypeError("a measure that needs features was given only their moments")

    def moments(self, blocks: Blocks, device: Device) -> Self:
        """Return the moments themselves. `Features` has the same method."""
        return self

    def numbered(self) -> Self:
        """Return the moments themselves. `Features` has the same method."""
        return self


@dataclass(frozen=True)
class Features:
    """Features of images 0, …, n − 1, on the CPU.

    They take 4·n·d bytes: 410 MB for the Inception features of 50,000 images.
    """

    values: Tensor
    """float32, n×d."""
    logits: Tensor | None = None
    """float32, n×classes; None if the extractor is not a classifier."""
    numbers: Tensor | None = None
    """int64, n: `distinct_numbers` of external images.

    None for the samples of a cell, whose blocks depend only on the index, so that cells are paired.
    """

    def __len__(self) -> int:
        return len(self.values)

    def on(self, device: torch.device | str) -> Tensor:
        """Return the values, n×d, on a device. Raises RunError if a value is not finite."""
        return finite(self.values).to(device)

    def tensors(self) -> dict[str, Tensor]:
        """Return the values, and the logits if any, by name."""
        return {"values": self.values} | ({} if self.logits is None else {"logits": self.logits})

    def first(self, n: int) -> Self:
        return type(self)(**{name: each[:n] for name, each in self.tensors().items()})

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return the concatenated features of all parts, on the CPU."""
        tensors = [part.tensors() for part in parts]
        joined = {name: torch.cat([each[name] for each in tensors]).cpu() for name in tensors[0]}
        return cls(**joined)

    def numbered(self) -> Self:
        """Return the features with `numbers`, computed from the values if they are missing."""
        numbers = distinct_numbers(self.values.numpy()) if self.numbers is None else self.numbers
        return replace(self, numbers=numbers)

    def blocks(self, count: int = BLOCKS) -> Blocks:
        """Return the blocks of a jackknife; copies of an image are in the same block."""
        return assign_blocks(len(self) if self.numbers is None else self.numbers, count)

    def moments(self, blocks: Blocks, device: Device) -> BlockMoments:
        """Return the moments of each block, computed on a device."""
        return BlockMoments(blocks, self.numbers).add(self.values.to(device))

    @cached_property
    def total(self) -> FeatureStatistics:
        """n, Σx and Σxxᵀ of all features."""
        first, *others = (FeatureStatistics.of(part) for part in self.values.split(10_000))
        return sum(others, start=first)


class Reference(NamedTuple):
    """The features of the images with which samples are compared, and of noise.

    `MetricSettings.scale` computes the scale of a metric from these features.
    """

    train: Features | BlockMoments | FeatureStatistics
    """Features of the training split or of external images; moments if no metric needs features."""
    test: Features | None
    """Features of the test split; None without a test split."""
    noise: Features | None
    """Features of standard normal noise, quantized like samples; None for external images."""
    compared: str = "train"
    """The split that samples are compared with."""
    cache: dict[str, Tensor] | None = None
    """Cached quantities that depend only on these images; None disables the cache."""

    def once(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """Return a quantity that depends only on these images, from `cache` if possible."""
        if self.cache is None:
            return compute()
        key = f"{self.compared} {name}"
        if key not in self.cache:
            self.cache[key] = compute()
        return self.cache[key]

    def number(self, name: str, compute: Callable[[], float]) -> float:
        """Return a number that depends only on these images, from `cache` if possible."""
        return self.once(name, lambda: torch.tensor(compute(), dtype=torch.float64)).item()

    @property
    def images(self) -> Features | BlockMoments | FeatureStatistics:
        """The images that samples are compared with. Raises UserError if the split is missing."""
        return self.split(self.compared)

    @property
    def held_out(self) -> Features | BlockMoments | FeatureStatistics | None:
        """The other split, which samples are not compared with; None if the split is missing."""
        return self.train if self.compared == "test" else self.test

    def split(self, name: str) -> Features | BlockMoments | FeatureStatistics:
        """Return the images of `train` or `test`. Raises UserError if the split is missing."""
        images = self.train if name == "train" else self.test
        if images is None:
            raise UserError("the reference has no test images; set reference_split to train")
        return images


def digest_of_weights(architecture: str, weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a description of the architecture and of the named weights."""
    return digest_of_arrays("weights", as_arrays(weights), {"architecture": architecture})
