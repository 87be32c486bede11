"""The features of images: their extraction, their statistics, and blocks for intervals."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from psld.diffusion.score import Batching
from psld.metrics.estimate import Estimate
from psld.metrics.settings import Measurement
from psld.utils.device import all_bits
from psld.utils.errors import RunError, UserError
from psld.utils.progress import Progress
from psld.utils.tensors import as_arrays, digest_of_arrays, read_tensors, save_tensors

BLOCKS = 20
"""Blocks of a cell. With 20, the t quantile is 2.09 instead of 1.96, and s has an error of 16 %."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2⁶⁴ divided by the golden ratio


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
        """Return the features of the first n images."""
        return type(self)(**{name: each[:n] for name, each in self.tensors().items()})

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return the features of all parts in their order, on the CPU."""
        tensors = [part.tensors() for part in parts]
        return cls(
            **{name: torch.cat([each[name] for each in tensors]).cpu() for name in tensors[0]}
        )

    def blocks(self, blocks: int) -> "Blocks":
        """Return the blocks of a jackknife, each image in that of its copies."""
        return assign_blocks(len(self) if self.numbers is None else self.numbers, blocks)

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

    def split(self, name: str) -> Features | FeatureStatistics:
        """Return the images of `train` or `test`. Raises UserError if there are none."""
        images = self.train if name == "train" else self.test
        if images is None:
            raise UserError("the reference has no test images; choose another reference_split")
        return images


# -- extraction -----------------------------------------------------------------------------------


class Extractor(Protocol):
    """A map from images to features. Equal digests mean equal features, up to rounding."""

    digest: str
    """Digest of the architecture and its weights."""
    device: torch.device
    """The device on which the features are computed and returned."""

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map uint8 images N×C×H×W on any device → float32 features N×d and logits N×classes.

        The logits are None if the network is not a classifier.
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
    silent: bool = False,
) -> Features:
    """Gather the features, and logits if any, of `total` uint8 images, with their progress."""
    with closing(Progress(description, "image", total, silent=silent)) as progress:
        return extract(extractor, batches, progress)


@all_bits()
def extract(extractor: Extractor, batches: Iterable[Tensor], progress: Progress) -> Features:
    """Gather the features, and logits if any, of uint8 images, as a part of some progress.

    A GPU is waited for at the end only: the next batch is read while this one is computed. If
    memory runs out, batches are halved.
    """
    parts, memory = [], Batching()
    for batch in batches:
        if extractor.device.type == "cuda":
            batch = batch.pin_memory().to(extractor.device, non_blocking=True)
        with torch.autocast(extractor.device.type, enabled=False):
            parts += (Features(*found) for found in memory.parts(extractor, batch))
        progress.update(len(batch))
    return Features.joined(parts)


def digest_of_weights(architecture: str, weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of an architecture's description and its weights' names and values."""
    return digest_of_arrays("weights", as_arrays(weights), {"architecture": architecture})


class Cost(NamedTuple):
    """The cost of one shard."""

    images: int
    nfe: int
    seconds: float
    device: str


@dataclass(frozen=True)
class Gathered:
    """The features of images and the facts of their shards, for all results of an evaluation."""

    samples: dict[tuple[str, int], Features]
    """The first images, by `metric.features` and their number."""
    labels: Tensor | None
    """int64, n: the class that each image was guided to; None without guidance to a class."""
    costs: list[Cost]
    moments: dict[tuple[str, int], FeatureStatistics] = field(default_factory=dict)
    """Kept of images whose features are too many to keep."""

    def has(self, measurement: Measurement) -> bool:
        """Check if there are features for a measurement."""
        return measurement.group in self.samples

    def recomputes(self, measurement: Measurement) -> bool:
        """Check if there are features, or mean and covariance for the value of a distance."""
        frechet = measurement.metric.measure.kind == "frechet"
        return self.has(measurement) or (frechet and measurement.group in self.moments)

    def spent(self, samples: int) -> dict[str, Any]:
        """Return the fields of a result that say what its images cost; none if it is unknown."""
        firsts = accumulate((cost.images for cost in self.costs), initial=0)
        pairs = zip(self.costs, firsts, strict=False)
        costs = [cost for cost, first in pairs if first < samples]
        if not costs:
            return {}
        images = sum(cost.images for cost in costs)
        return {
            "nfe": sum(cost.nfe * cost.images for cost in costs) / images,
            "sampling_seconds": round(sum(cost.seconds for cost in costs), 3),
            "sampling_device": ", ".join(sorted({cost.device for cost in costs})),
        }


def save_kept(path: str | Path, gathered: Gathered, largest: int) -> str:
    """Write a file from which results can be computed again, and return its SHA-256.

    It has labels, costs, and features; their mean and covariance if there are more than `largest`.
    """
    tensors = {} if gathered.labels is None else {"labels": gathered.labels}
    for (name, n), features in gathered.samples.items():
        kept = features if features.values.shape[1] <= largest else features.total
        tensors |= {f"{name}/{n}/{key}": each for key, each in kept.tensors().items()}
    return save_tensors(path, "evaluation", tensors, {"costs": gathered.costs})


def load_kept(path: str | Path, sha256: str) -> Gathered:
    """Read what `save_kept` wrote, by the SHA-256 that it returned.

    Raises UserError if the file is missing or damaged, or has another number of features.
    """
    stored = read_tensors(path, "evaluation", "evaluate the cell again", sha256)
    tensors = stored.tensors()
    labels = tensors.pop("labels", None)
    groups: dict[tuple[str, int], dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, n, what = key.split("/")
        groups.setdefault((name, int(n)), {})[what] = tensor
    samples, moments = {}, {}
    for (name, n), each in groups.items():
        if "mean" in each:
            moments[name, n] = FeatureStatistics.of_tensors(n, **each)
            continue
        if wrong := {len(tensor) for tensor in each.values()} - {n}:
            raise UserError(f"{path}: {name}: features of {wrong.pop()} samples, not of {n}")
        samples[name, n] = Features(**each)
    costs = [Cost(*cost) for cost in stored.origin["costs"]]
    return Gathered(samples, labels, costs, moments)


# -- blocks ---------------------------------------------------------------------------------------


def block_index(index: np.ndarray, blocks: int = BLOCKS) -> np.ndarray:
    """Return the block of each sample index i, ⌊B · frac(i / golden ratio)⌋, in integers.

    A cell's first n samples keep their blocks if more follow. Block sizes differ by a few samples.
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


def assign_blocks(numbers: Tensor | int, blocks: int | Blocks = BLOCKS) -> Blocks:
    """Return that many blocks, or these, of n samples; those with equal numbers are copies."""
    if isinstance(blocks, Blocks):
        return blocks
    numbers = torch.arange(numbers) if isinstance(numbers, int) else numbers
    index = torch.from_numpy(block_index(numbers.numpy(), blocks))
    _, block = index.unique(return_inverse=True)
    return Blocks(block, int(block.max()) + 1, len(numbers) - int(numbers.max()) - 1)


def distinct_numbers(rows: np.ndarray) -> Tensor:
    """Number images or features 0, 1, … as they first appear; equal ones share a number."""
    numbers: dict[bytes, int] = {}
    digests = (sha256(np.ascontiguousarray(row)).digest() for row in rows)
    return torch.tensor([numbers.setdefault(digest, len(numbers)) for digest in digests])


def jackknife(values: Tensor, blocks: Blocks, **kind: Any) -> Estimate:
    """Return the estimate of a metric of this kind from its values with and without each block."""
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
    """Estimate the share of n samples with a property, n booleans; `threshold_images` decide it."""
    blocks = assign_blocks(len(counted), blocks)
    counts, sums = blocks.block.bincount(), blocks.block.bincount(counted.double().cpu())
    values = with_and_without(sums) / with_and_without(counts)
    return jackknife(values, blocks, share=True, threshold_images=threshold_images)


def with_and_without(sums: Tensor) -> Tensor:
    """Return the sum of B blocks, then the sum without each of them, (B + 1)×…"""
    total = sums.sum(dim=0, keepdim=True)
    return torch.cat([total, total - sums])
