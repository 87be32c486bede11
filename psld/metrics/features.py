"""The features of a set of images: their extraction, statistics, and blocks for intervals."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from psld.metrics.estimate import Estimate
from psld.utils.device import all_bits
from psld.utils.errors import UserError
from psld.utils.tensors import as_arrays, digest_of_arrays

BLOCKS = 20
"""Blocks of a cell. With 20, the t quantile is 2.09 instead of 1.96, and s has an error of 16 %."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2⁶⁴ divided by the golden ratio


@dataclass(frozen=True)
class FeatureStatistics:
    """The sufficient statistics (n, Σx, Σxxᵀ) of features in R^d, in float64.

        statistics = FeatureStatistics.of(features) + FeatureStatistics.of(more)
        statistics.mean, statistics.covariance

    The cut into parts changes the result only by rounding.
    """

    count: int
    sum: Tensor
    outer: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Self:
        """Return the statistics of features, n×d, on their device."""
        x = features.double()
        return cls(len(x), x.sum(dim=0), x.T @ x)

    @classmethod
    def of_moments(cls, mean: Tensor, covariance: Tensor) -> Self:
        """Return statistics with this mean, d, and covariance, d×d, of unknown samples.

        Any number of samples gives both. It is two, the fewest that have a covariance.
        """
        mean, covariance = mean.double(), covariance.double()
        return cls(2, 2 * mean, covariance + 2 * torch.outer(mean, mean))

    def __add__(self, other: Self) -> Self:
        return self._combined(other, 1)

    def __sub__(self, other: Self) -> Self:
        """Return the statistics without the samples of `other`, which must be included."""
        return self._combined(other, -1)

    def _combined(self, other: Self, sign: int) -> Self:
        count, outer = self.count + sign * other.count, self.outer + sign * other.outer
        return type(self)(count, self.sum + sign * other.sum, outer)

    @property
    def total(self) -> Self:
        """The statistics themselves: of a reference whose images are not known."""
        return self

    @property
    def mean(self) -> Tensor:
        """The sample mean, d. Raises UserError without samples."""
        self._check_count(1)
        return self.sum / self.count

    @property
    def covariance(self) -> Tensor:
        """The unbiased sample covariance, d×d. Raises UserError with fewer than two samples."""
        self._check_count(2)
        scatter = self.outer - self.count * torch.outer(self.mean, self.mean)
        return scatter / (self.count - 1)

    def _check_count(self, needed: int) -> None:
        if self.count < needed:
            raise UserError(
                f"feature statistics of {self.count} images: at least {needed} are needed"
            )


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

    def first(self, n: int) -> Self:
        """Return the features of the first n images."""
        return type(self)(self.values[:n], None if self.logits is None else self.logits[:n])

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return the features of all images, part after part, of one extractor, on the CPU."""
        logits = [part.logits for part in parts if part.logits is not None]
        values = torch.cat([part.values for part in parts]).cpu()
        return cls(values, torch.cat(logits).cpu() if logits else None)

    def blocks(self, blocks: int) -> "Blocks":
        """Return the blocks of a jackknife, each image in that of its copies."""
        return blocks_of(torch.arange(len(self)) if self.numbers is None else self.numbers, blocks)

    @cached_property
    def total(self) -> FeatureStatistics:
        """n, Σx and Σxxᵀ of all features."""
        first, *others = (FeatureStatistics.of(part) for part in self.values.split(10_000))
        return sum(others, start=first)

    def tensors(self) -> dict[str, Tensor]:
        """Return values and logits by name."""
        return {"values": self.values} | ({} if self.logits is None else {"logits": self.logits})

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Return the features that `tensors` was called on."""
        return cls(tensors["values"], tensors.get("logits"))


class Extractor(Protocol):
    """A map from images to features. Equal digests mean equal features, up to rounding."""

    digest: str
    """Digest of the architecture and its weights."""
    device: torch.device
    """The device on which the features are computed and returned."""

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map uint8 images N×C×H×W on any device → float32 features N×d and logits N×classes.

        Both are on `device`. The logits are None if the network is not a classifier.
        """
        ...


def batches_of(images: np.ndarray, batch_size: int) -> Iterator[Tensor]:
    """Cut a uint8 array or memory map N×C×H×W into batches, each read when needed."""
    for start in range(0, len(images), batch_size):
        yield torch.from_numpy(np.array(images[start : start + batch_size]))


def gather(
    extractor: Extractor,
    batches: Iterable[Tensor],
    description: str,
    total: int,
    silent: bool | None = None,
) -> Features:
    """Gather the features, and logits if any, of uint8 images, with a progress bar up to `total`.

    A GPU is waited for at the end only: the next batch is read while this one is computed. It
    multiplies with all bits of fp32, whoever calls.
    """
    parts = []
    with all_bits(), tqdm(total=total, desc=description, unit="img", disable=silent) as progress:
        for batch in batches:
            if extractor.device.type == "cuda":
                batch = batch.pin_memory().to(extractor.device, non_blocking=True)
            parts.append(Features(*extractor(batch)))
            progress.update(len(batch))
    return Features.joined(parts)


def digest_of_weights(architecture: str, weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of an architecture's description and its weights' names and values."""
    return digest_of_arrays("weights", as_arrays(weights), {"architecture": architecture})


# -- blocks -------------------------------------------------------------------------------------


def block_index(index: np.ndarray, blocks: int = BLOCKS) -> np.ndarray:
    """Return the block of each sample index i, ⌊B · frac(i / golden ratio)⌋, in integers.

    The block depends only on the index, so the cut into shards and batches is free, and a cell's
    first n samples keep their blocks if more samples follow. Block sizes differ by a few samples.
    Unlike i mod B, each block has its share of every class if labels cycle through the samples.
    """
    position = (np.asarray(index, dtype=np.uint64) * _GOLDEN) >> np.uint64(32)
    return ((position * np.uint64(blocks)) >> np.uint64(32)).astype(np.int64)


@dataclass(frozen=True)
class Blocks:
    """The blocks of n samples, which a jackknife leaves out in turn."""

    block: Tensor
    """int64, n: the block of each sample."""
    count: int
    """B, at most the number asked for: few samples have fewer."""
    copies: int
    """The samples that equal an earlier one."""


def blocks_of(numbers: Tensor, blocks: int = BLOCKS) -> Blocks:
    """Return the blocks of samples with these numbers, n; equal numbers are copies."""
    index = torch.from_numpy(block_index(numbers.numpy(), blocks))
    _, block = index.unique(return_inverse=True)
    return Blocks(block, int(block.max()) + 1, len(numbers) - int(numbers.max()) - 1)


def assign_blocks(n: int, blocks: int | Blocks = BLOCKS) -> Blocks:
    """Return the blocks, or if their number is given, that many blocks of n different samples."""
    return blocks_of(torch.arange(n), blocks) if isinstance(blocks, int) else blocks


def distinct_numbers(rows: np.ndarray) -> Tensor:
    """Number images or features 0, 1, … as they first appear; equal ones share a number."""
    numbers: dict[bytes, int] = {}
    digests = (sha256(np.ascontiguousarray(row)).digest() for row in rows)
    return torch.tensor([numbers.setdefault(digest, len(numbers)) for digest in digests])


def jackknife(values: Tensor, blocks: Blocks, **kind: Any) -> Estimate:
    """Return the estimate of a metric from its values: over all samples, then without each block.

    Args:
        values: B + 1 numbers.
        kind: what `Estimate` has to know about the metric, such as share=True.
    """
    value, *without_block = values.tolist()
    return Estimate(
        value=value,
        samples=len(blocks.block),
        copies=blocks.copies,
        block_samples=tuple(blocks.block.bincount().tolist()),
        without_block=tuple(without_block),
        **kind,
    )


def share_estimate(
    counted: Tensor, blocks: int | Blocks = BLOCKS, threshold_images: int | None = None
) -> Estimate:
    """Estimate the share of n samples with a property, from a boolean for each sample.

    `threshold_images`: the number of other images whose quantile decides it.
    """
    blocks = assign_blocks(len(counted), blocks)
    block = blocks.block
    counts, sums = block.bincount(), block.bincount(counted.double().cpu())
    rests = (sums.sum() - sums) / (len(counted) - counts)
    values = torch.cat([sums.sum()[None] / len(counted), rests])
    return jackknife(values, blocks, share=True, threshold_images=threshold_images)
