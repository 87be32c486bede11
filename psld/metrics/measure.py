"""All metrics, computed from the features of samples and of a reference."""

from typing import NamedTuple

import torch
from torch import Tensor

from psld.metrics.distances import (
    finite,
    frechet_distance,
    frechet_estimate,
    inception_score,
    kernel_distance,
)
from psld.metrics.estimate import Estimate
from psld.metrics.features import BLOCKS, Features
from psld.metrics.neighbors import Memorization, memorization, precision, recall
from psld.metrics.settings import (
    FrechetSettings,
    InceptionScoreSettings,
    KernelSettings,
    MemorizationSettings,
    MetricSettings,
    NeighborSettings,
)
from psld.utils.errors import UserError


class Reference(NamedTuple):
    """The images that samples are compared with, and those that give a metric its scale."""

    train: Features
    test: Features | None
    """None if the dataset has no test split."""
    noise: Features
    """Standard normal noise, quantized as samples are."""

    def split(self, name: str) -> Features:
        """Return the images of `train` or `test`. Raises UserError if there are none."""
        images = self.train if name == "train" else self.test
        if images is None:
            raise UserError("the reference has no test images; choose another reference_split")
        return images


def measure(
    metric: MetricSettings,
    samples: Features,
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

    Raises UserError if the samples are too few, and RunError if features are NaN or infinite.
    """
    settings = metric.measure
    match settings:
        case FrechetSettings():
            split = reference.split(metric.reference_split)
            return frechet_estimate(_values(samples, device), split.total, blocks)
        case InceptionScoreSettings():
            logits = samples.logits
            if logits is None:
                raise UserError(f"{metric.name}: the extractor gives no logits")
            splits = min(settings.splits, max(1, len(logits) // 2))  # a rehearsal has few samples
            return inception_score(finite(logits), splits, blocks)
        case MemorizationSettings():
            return measure_memorization(metric, samples, reference, device, blocks).share
    x, y = (
        _values(images, device) for images in (samples, reference.split(metric.reference_split))
    )
    match settings:
        case KernelSettings():
            return kernel_distance(x, y, settings.subsets, settings.subset_size, blocks)
        case NeighborSettings(kind=kind):
            share = precision if kind == "precision" else recall
            return share(x, y, settings.neighbors, blocks)


def measure_memorization(
    metric: MetricSettings,
    samples: Features,
    reference: Reference,
    device: torch.device | str = "cpu",
    blocks: int = BLOCKS,
) -> Memorization:
    """Compute memorization with the distances behind it. Raises as `measure` does."""
    images = (samples, reference.train, reference.split("test"))
    x, train, test = (_values(each, device) for each in images)
    return memorization(x, train, test, metric.measure.quantile, blocks)


def scale(
    metric: MetricSettings, reference: Reference, device: torch.device | str = "cpu"
) -> dict[str, float | None]:
    """Return the metric of real images that are not in the reference (`floor`), and of `noise`.

    The floor is None without a test split. It is of all images of the split, which may be more or
    fewer than a cell's samples: a Fréchet distance or recall compares only with cells of as many.
    """

    def value(images: Features) -> float:
        if metric.measure.kind == "frechet":
            return frechet_distance(images.total, reference.split(metric.reference_split).total)
        # The interval does not count, so the fewest blocks are enough.
        return measure(metric, images, reference, device, blocks=2).value

    held_out = reference.train if metric.reference_split == "test" else reference.test
    floor = None if held_out is None else value(held_out)
    return {"floor": floor, "noise": value(reference.noise)}


def _values(images: Features, device: torch.device | str) -> Tensor:
    return finite(images.values).to(device)
