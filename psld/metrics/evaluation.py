"""The evaluation of a cell: one pass over its shards for all its metrics."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from psld.metrics.blocks import BlockStatistics
from psld.metrics.extractor import Extractor, batches_of, gather
from psld.metrics.features import Features
from psld.metrics.measure import Measurable, Reference, measure, memorization_of, scale
from psld.metrics.reference_folder import ReferenceManifest
from psld.metrics.settings import MetricSettings
from psld.sampling.shards import Shard
from psld.utils.tensors import load_tensors, save_tensors

KEPT_DIMENSION = 512
"""The largest number of features of which a cell keeps what its metrics were computed from."""

NEAREST_PAIRS = 8
"""The number of nearest pairs of sample and training image in a result."""


class Measurement(NamedTuple):
    """One number: a metric of the first `samples` images of a cell."""

    metric: MetricSettings
    samples: int


@dataclass(frozen=True)
class Source:
    """What metrics with the same features share besides the samples."""

    extractor: Extractor
    reference: Reference
    manifest: ReferenceManifest
    batch_size: int
    """Images per call of the extractor."""


class Cost(NamedTuple):
    """The cost of one shard."""

    images: int
    nfe: int
    seconds: float
    device: str


@dataclass(frozen=True)
class Gathered:
    """The features of a cell's images, and the cost of these images."""

    features: dict[str, Features]
    """By the name of their source."""
    labels: Tensor | None
    """int64, n: the class that each image was guided to; None without guidance to a class."""
    costs: list[Cost]

    def result(self, measurement: Measurement, source: Source) -> dict[str, Any]:
        """Return the fields of a cell's result that depend on metric and shards."""
        metric, samples = measurement
        features, device = self.features[metric.features].first(samples), source.extractor.device
        nearest = None
        if metric.measure.kind == "memorization":
            found = memorization_of(metric, features, source.reference, device)
            estimate, nearest = found.share, found.pairs(NEAREST_PAIRS)
        else:
            estimate = measure(metric, features, source.reference, device)
        floor, noise = scale(metric, source.reference, device)
        costs = self._costs_of(samples)
        return {
            "metric": metric.model_dump(mode="json", exclude_none=True),
            "estimate": estimate,
            "nearest": nearest,
            "class_accuracy": self._accuracy(metric, features),
            "nfe": sum(cost.nfe for cost in costs) / len(costs),
            "sampling_seconds": round(sum(cost.seconds for cost in costs), 3),
            "sampling_device": ", ".join(sorted({cost.device for cost in costs})),
            "floor": floor,
            "noise": noise,
            "extractor_test_accuracy": source.manifest.extractor_test_accuracy,
            "reference_samples": source.manifest.images_of(metric.reference_split),
            "reference_sha256": source.manifest.features_sha256,
        }

    def _accuracy(self, metric: MetricSettings, features: Features) -> float | None:
        """Return the share of images whose class the dataset's classifier recognizes."""
        if self.labels is None or metric.extractor.kind != "classifier":
            return None
        answers = features.logits.argmax(dim=1)
        return (answers == self.labels[: len(features)]).double().mean().item()

    def _costs_of(self, samples: int) -> list[Cost]:
        """Return the costs of the shards with the first `samples` images."""
        costs, images = [], 0
        for cost in self.costs:
            if images < samples:
                costs.append(cost)
                images += cost.images
        return costs


def gather_shards(shards: Iterable[Shard], sources: Mapping[str, Source]) -> Gathered:
    """Read each shard once and extract the features of its images with each extractor.

    Memory for 50,000 samples with Inception's features and logits is 0.6 GB.
    """
    parts: dict[str, list[Features]] = {name: [] for name in sources}
    labels, costs = [], []
    for shard in shards:
        count = len(shard.images)
        for name, source in sources.items():
            batches = batches_of(shard.images, source.batch_size)
            parts[name].append(gather(source.extractor, batches, name, count))
        if shard.labels is not None:
            labels.append(torch.from_numpy(shard.labels))
        costs.append(Cost(count, shard.nfe, shard.seconds, shard.device))
    features = {name: Features.joined(own) for name, own in parts.items()}
    return Gathered(features, torch.cat(labels) if labels else None, costs)


def kept_path(results: str) -> str:
    """Return the path of what a cell's metrics were computed from, next to its results."""
    return f"{results.removesuffix('.json')}.safetensors"


def save_kept(
    path: str | Path, gathered: Gathered, measurements: Iterable[Measurement]
) -> str | None:
    """Keep what the metrics of a cell were computed from, and return the SHA-256 of the file.

    For an extractor of at most 512 features, these are the block statistics of the samples if all
    its metrics are Fréchet distances, and else the features. None, and no file, without such an
    extractor.
    """
    kinds: dict[tuple[str, int], set[str]] = {}
    for metric, samples in measurements:
        kinds.setdefault((metric.features, samples), set()).add(metric.measure.kind)
    tensors = {}
    for (name, samples), own in kinds.items():
        features = gathered.features[name].first(samples)
        if features.dimension <= KEPT_DIMENSION:
            kept = features.block_statistics() if own == {"frechet"} else features
            prefix = f"{name}/{samples}/"
            tensors |= {prefix + key: tensor for key, tensor in kept.tensors().items()}
    return save_tensors(path, tensors) if tensors else None


def load_kept(path: str | Path, sha256: str) -> dict[tuple[str, int], Measurable]:
    """Read what `save_kept` wrote, by the SHA-256 that it returned.

    Returns what `measure` takes as samples, by `metric.features` and the number of samples. Raises
    UserError if the file is missing or damaged.
    """
    groups: dict[tuple[str, int], dict[str, Tensor]] = {}
    for key, tensor in load_tensors(path, sha256, "evaluate the cell again").items():
        name, samples, what = key.split("/")
        groups.setdefault((name, int(samples)), {})[what] = tensor
    return {
        group: (Features if "values" in tensors else BlockStatistics).from_tensors(tensors)
        for group, tensors in groups.items()
    }
