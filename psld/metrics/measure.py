"""All metrics, computed from the features of samples and of a reference."""

from typing import NamedTuple

import torch
from torch import Tensor

from psld.metrics.blocks import BLOCKS, BlockStatistics
from psld.metrics.estimate import Estimate
from psld.metrics.features import Features
from psld.metrics.frechet import finite, frechet_distance, frechet_estimate
from psld.metrics.inception_score import inception_score
from psld.metrics.kernel_distance import kernel_distance
from psld.metrics.neighbors import Memorization, memorization, precision, recall
from psld.metrics.settings import (
    FrechetSettings,
    InceptionScoreSettings,
    KernelSettings,
    MemorizationSettings,
    MetricSettings,
    PrecisionSettings,
    RecallSettings,
)
from psld.metrics.statistics import FeatureStatistics
from psld.utils.errors import UserError

Measurable = Features | BlockStatistics
"""A set of images. Block statistics are enough for a Fréchet distance."""


class Reference(NamedTuple):
    """The images that samples are compared with, and those that give a metric its scale."""

    train: Measurable
    test: Measurable | None
    """None if the dataset has no test split."""
    noise: Measurable
    """Standard normal noise, quantized as samples are."""

    def of(self, split: str) -> Measurable:
        """Return the images of `train`, `test` or `all`. Raises UserError if there are none."""
        if split == "train" or (split == "all" and self.test is None):
            return self.train
        if self.test is None:
            raise UserError("the reference has no test images; choose another reference_split")
        if split == "test":
            return self.test
        return Features.joined([_features(self.train), _features(self.test)])

    def total(self, split: str) -> FeatureStatistics:
        """Return the statistics of the images of `train`, `test` or `all`."""
        if split == "all" and self.test is not None:
            return self.train.total + self.test.total
        return self.of(split).total


def measure(
    metric: MetricSettings,
    samples: Measurable,
    reference: Reference,
    device: torch.device | str = "cpu",
    blocks: int = BLOCKS,
) -> Estimate:
    """Compute a metric with its interval. All metrics of one extractor share the samples' features.

        samples = gather(extractor, batches, "samples", total)
        estimates = {m.name: measure(m, samples, reference) for m in metrics}

    With Inception the Fréchet distance takes a minute of one core for any number of samples, and
    the kernel distance half of that. Precision, recall and memorization grow with samples ×
    reference images (`python -m benchmarks.metrics`).

    Raises UserError if there are statistics where the measure needs features, or if the samples are
    too few, and RunError if features are NaN or infinite.
    """
    settings, split = metric.measure, metric.reference_split
    match settings:
        case FrechetSettings():
            if isinstance(samples, Features):
                samples = samples.block_statistics(blocks, device)
            return frechet_estimate(samples, reference.total(split))
        case InceptionScoreSettings():
            logits = _features(samples).logits
            if logits is None:
                raise UserError(f"{metric.name}: the extractor gives no logits")
            splits = min(settings.splits, max(1, len(logits) // 2))  # a rehearsal has few samples
            return inception_score(finite(logits), splits, blocks)
        case MemorizationSettings():
            return memorization_of(metric, samples, reference, device, blocks).share
    x, y = (_values(images, device) for images in (samples, reference.of(split)))
    match settings:
        case KernelSettings():
            return kernel_distance(x, y, settings.subsets, settings.subset_size, blocks)
        case PrecisionSettings():
            return precision(x, y, settings.neighbors, blocks)
        case RecallSettings():
            return recall(x, y, settings.neighbors, blocks)


def memorization_of(
    metric: MetricSettings,
    samples: Measurable,
    reference: Reference,
    device: torch.device | str = "cpu",
    blocks: int = BLOCKS,
) -> Memorization:
    """Compute memorization with the distances behind it. Raises as `measure` does."""
    images = (samples, reference.train, reference.of("test"))
    x, train, test = (_values(each, device) for each in images)
    return memorization(x, train, test, metric.measure.quantile, blocks)


def scale(
    metric: MetricSettings, reference: Reference, device: torch.device | str = "cpu"
) -> dict[str, float | None]:
    """Return the metric of real images that are not in the reference (`floor`), and of `noise`.

    The floor is None without a test split. For reference_split `all`, it compares the two splits.
    """

    def value(images: Measurable, split: str) -> float:
        if metric.measure.kind == "frechet":
            return frechet_distance(images.total, reference.total(split))
        # The interval does not count, so the fewest blocks are enough.
        against = metric.model_copy(update={"reference_split": split})
        return measure(against, images, reference, device, blocks=2).value

    split = metric.reference_split
    held_out = reference.train if split == "test" else reference.test
    floor = None if held_out is None else value(held_out, "train" if split == "all" else split)
    return {"floor": floor, "noise": value(reference.noise, split)}


def _features(images: Measurable) -> Features:
    if isinstance(images, BlockStatistics):
        raise UserError("only a Fréchet distance can be measured from statistics of features")
    return images


def _values(images: Measurable, device: torch.device | str) -> Tensor:
    return finite(_features(images).values).to(device)
