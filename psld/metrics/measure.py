"""All metrics, computed from the features of samples and of a reference."""

from typing import NamedTuple

import torch

from psld.metrics.estimate import Estimate
from psld.metrics.features import Features
from psld.metrics.frechet import frechet_estimate
from psld.metrics.inception_score import inception_score
from psld.metrics.kernel_distance import kernel_distance
from psld.metrics.neighbors import memorization, precision, recall
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
from psld.utils.errors import RunError, UserError


class Reference(NamedTuple):
    """The images that samples are compared with. Measures of single images need the features."""

    statistics: FeatureStatistics
    features: Features | None = None
    """Features of the reference images; for kernel distance, precision, recall, memorization."""
    test_features: Features | None = None
    """Features of the test split; for memorization."""


def measure(
    metric: MetricSettings,
    samples: Features,
    reference: Reference,
    device: torch.device | str = "cpu",
) -> Estimate:
    """Compute a metric with its interval. All metrics of one extractor share the samples' features.

        samples = gather(extractor, batches, "samples", total)
        estimates = {m.name: measure(m, samples, reference) for m in metrics}

    For 50,000 samples and 50,000 reference images with Inception, one core needs 3 minutes for the
    Fréchet distance, 1 for the kernel distance, 5 for precision, 7 for recall, and 3 for
    memorization. It needs hours to extract the features.

    Raises UserError if the reference has no features but the measure needs them, or if the samples
    are too few, and RunError if features are NaN or infinite.
    """
    settings = metric.measure
    x = samples.values.to(device)
    if not x.isfinite().all():
        raise RunError("the features hold NaN or infinity: the images or the extractor are broken")
    match settings:
        case FrechetSettings():
            return frechet_estimate(samples.block_statistics(device=device), reference.statistics)
        case InceptionScoreSettings():
            if samples.logits is None:
                raise UserError(f"{metric.name}: the extractor gives no logits")
            return inception_score(samples.logits, settings.splits)
        case KernelSettings():
            y = _needed(metric, reference.features).values.to(device)
            return kernel_distance(x, y, settings.subsets, settings.subset_size)
        case PrecisionSettings():
            y = _needed(metric, reference.features).values.to(device)
            return precision(x, y, settings.neighbors)
        case RecallSettings():
            y = _needed(metric, reference.features).values.to(device)
            return recall(x, y, settings.neighbors)
        case MemorizationSettings():
            train = _needed(metric, reference.features).values.to(device)
            test = _needed(metric, reference.test_features).values.to(device)
            return memorization(x, train, test, settings.quantile).share


def _needed(metric: MetricSettings, features: Features | None) -> Features:
    if features is None:
        raise UserError(f"{metric.name}: the reference has no features; make it again with them")
    return features
