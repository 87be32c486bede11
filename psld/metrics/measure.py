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
from psld.metrics.features import BLOCKS, Features, FeatureStatistics
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


def measure_reference(
    metric: MetricSettings,
    samples: Features,
    reference: Reference,
    device: torch.device | str = "cpu",
    blocks: int = BLOCKS,
) -> Estimate | None:
    """Compute a metric with the interval for other images of the reference, of the same samples.

    It is `measure` with the two sets exchanged, which changes no distance, and makes precision
    recall. None for statistics, for metrics without a reference, and for memorization. Raises as
    `measure` does.
    """
    exchanged = {"precision": "recall", "recall": "precision", "frechet": None, "kernel": None}
    settings, images = metric.measure, reference.split(metric.reference_split)
    if settings.kind not in exchanged or isinstance(images, FeatureStatistics):
        return None
    if kind := exchanged[settings.kind]:
        settings = settings.model_copy(update={"kind": kind})
    metric = metric.model_copy(update={"measure": settings, "reference_split": "train"})
    return measure(metric, images, Reference(samples, None, None), device, blocks)


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

    Each is None without such images. The floor is of all images of the split, which may be more or
    fewer than a cell's samples: a Fréchet distance or recall compares only with cells of as many.
    """

    def value(images: Features | None) -> float | None:
        if images is None:
            return None
        if metric.measure.kind == "frechet":
            return frechet_distance(images.total, reference.split(metric.reference_split).total)
        # The interval does not count, so the fewest blocks are enough.
        return measure(metric, images, reference, device, blocks=2).value

    held_out = reference.train if metric.reference_split == "test" else reference.test
    return {"floor": value(held_out), "noise": value(reference.noise)}


def _values(images: Features | FeatureStatistics, device: torch.device | str) -> Tensor:
    if isinstance(images, FeatureStatistics):
        raise UserError(
            "the reference has statistics (mu, sigma), enough for Fréchet distances alone; give "
            "its images"
        )
    return finite(images.values).to(device)
