"""The evaluation of a cell: one pass over its shards for all its metrics."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from psld.metrics.blocks import BlockStatistics
from psld.metrics.extractor import Extractor, batches_of, features_of
from psld.metrics.extractor_training import accuracy
from psld.metrics.feature_classifier import ClassifierExtractor
from psld.metrics.frechet import frechet_estimate
from psld.metrics.reference_folder import ReferenceManifest
from psld.metrics.settings import MetricSettings
from psld.metrics.statistics import FeatureStatistics
from psld.sampling.shards import Shard
from psld.training.manifest import ModelManifest
from psld.utils.errors import UserError


@dataclass
class Measurement:
    """One metric of the first `samples` images of a cell, gathered shard by shard."""

    metric: MetricSettings
    samples: int
    extractor: Extractor
    reference: FeatureStatistics
    scale: ReferenceManifest
    """The reference's manifest, which has the scale of the metric."""
    statistics: BlockStatistics = field(init=False)
    recognized: float = 0.0
    labeled: int = 0
    nfe: list[int] = field(default_factory=list)
    seconds: float = 0.0
    devices: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        device = self.extractor.device
        self.statistics = BlockStatistics(self.extractor.dimension, device=device)

    def add(self, shard: Shard, features: Tensor) -> None:
        """Add a shard and the features of its images; images beyond `samples` are ignored."""
        first = sum(self.statistics.counts)
        count = min(len(features), self.samples - first)
        if count <= 0:
            return
        self.statistics.update(features[:count], first)
        part = shard.first(count)
        if part.labels is not None and isinstance(self.extractor, ClassifierExtractor):
            share = accuracy(self.extractor, part.images, part.labels, self.metric.batch_size)
            self.recognized += share * count
            self.labeled += count
        self.nfe.append(shard.nfe)
        self.seconds += shard.seconds
        self.devices.add(shard.device)

    def result(self) -> dict[str, Any]:
        """Return the fields of the cell's result that depend on the metric and the shards."""
        return {
            "metric": self.metric.model_dump(mode="json", exclude_none=True),
            "estimate": frechet_estimate(self.statistics, self.reference),
            "class_accuracy": self.recognized / self.labeled if self.labeled else None,
            "nfe": sum(self.nfe) / len(self.nfe),
            "sampling_seconds": round(self.seconds, 3),
            "sampling_device": ", ".join(sorted(self.devices)),
            "floor": self.scale.floor,
            "noise": self.scale.noise,
            "extractor_test_accuracy": self.scale.extractor_test_accuracy,
            "reference_samples": self.scale.samples,
        }


def measure(measurements: Sequence[Measurement], shards: Iterable[Shard]) -> None:
    """Add all shards to all measurements. Metrics with the same extractor share its features."""
    for shard in shards:
        features: dict[str, Tensor] = {}
        for measurement in measurements:
            extractor = measurement.extractor
            if extractor.digest not in features:
                batches = batches_of(shard.images, measurement.metric.batch_size)
                parts = features_of(extractor, batches, measurement.metric.name, len(shard.images))
                features[extractor.digest] = torch.cat(list(parts))
            measurement.add(shard, features[extractor.digest])


def check_measure(metric: MetricSettings) -> None:
    """Raise UserError unless the metric is a Fréchet distance: commands compute no other."""
    if metric.measure.kind != "frechet":
        raise UserError(
            f"metric {metric.name}: the commands measure Fréchet distances; others are "
            "functions of Python, psld.metrics.measure"
        )


def check_reference(
    metric: MetricSettings,
    folder: str | Path,
    reference: ReferenceManifest,
    extractor: Extractor,
    model: ModelManifest,
) -> None:
    """Raise UserError if the reference is for another metric, extractor or dataset."""
    if reference.metric != metric or reference.extractor_digest != extractor.digest:
        raise UserError(
            f"{folder}: made with another metric or extractor than {metric.name} has now; run psld "
            "reference again"
        )
    trained_on = model.dataset_digest
    if trained_on is None and model.settings.dataset.name != reference.dataset:
        raise UserError(
            f"{folder}: of dataset {reference.dataset}, but the model is of "
            f"{model.settings.dataset.name}"
        )
    if trained_on is not None and reference.dataset_digest != trained_on:
        raise UserError(
            f"{folder}: of dataset {reference.dataset} with digest "
            f"{reference.dataset_digest[:12]}, but the model was trained on {trained_on[:12]}"
        )
