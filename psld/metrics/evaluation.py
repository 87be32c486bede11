"""The evaluation of a cell: one pass over its shards for all its metrics."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from psld.config.settings import write_record
from psld.metrics.estimate import Estimate
from psld.metrics.extractor import Extractor, batches_of, gather
from psld.metrics.features import BlockStatistics, Features, FeatureSet, mean_estimate
from psld.metrics.measure import Reference, measure, measure_memorization, scale
from psld.metrics.reference_folder import (
    ReferenceManifest,
    check_reference,
    extractor_for,
    load_reference,
)
from psld.metrics.results import CellResult, CellResults, Weights
from psld.metrics.settings import EvaluateSettings, Measurement, MetricSettings
from psld.sampling.sample import origin_of
from psld.sampling.settings import images_digest
from psld.sampling.shards import Shard, read_shards
from psld.training.manifest import GuideManifest, ModelManifest, read_manifest
from psld.utils.device import use_device
from psld.utils.files import digest_of
from psld.utils.provenance import provenance
from psld.utils.tensors import read_tensors, save_tensors

NEAREST_PAIRS = 8
"""The number of nearest pairs of sample and training image in a result."""


@dataclass(frozen=True)
class Source:
    """The extractor and the reference that all metrics with the same features share."""

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
    """The features of a cell's samples and the facts of its shards, for all its results."""

    samples: dict[tuple[str, int], FeatureSet]
    """The first images, by `metric.features` and their number."""
    labels: Tensor | None
    """int64, n: the class that each image was guided to; None without guidance to a class."""
    costs: list[Cost]

    def result(self, measurement: Measurement, source: Source) -> dict[str, Any]:
        """Return the fields of a cell's result that depend on metric and shards."""
        metric, reference, device = measurement.metric, source.reference, source.extractor.device
        return {
            **self.facts(measurement, source.manifest),
            **self.numbers(measurement, reference, device),
            **scale(metric, reference, device),
        }

    def numbers(
        self,
        measurement: Measurement,
        reference: Reference,
        device: torch.device | str = "cpu",
    ) -> dict[str, Any]:
        """Return the fields of a result that are computed from the samples' features."""
        metric = measurement.metric
        samples = self.samples[metric.features, measurement.samples]
        nearest = None
        if metric.measure.kind == "memorization":
            found = measure_memorization(metric, samples, reference, device)
            estimate, nearest = found.share, found.pairs(NEAREST_PAIRS)
        else:
            estimate = measure(metric, samples, reference, device)
        accuracy = self._accuracy(metric, samples)
        return {"estimate": estimate, "nearest": nearest, "class_accuracy": accuracy}

    def facts(self, measurement: Measurement, manifest: ReferenceManifest) -> dict[str, Any]:
        """Return the fields of a result that come from the shards and the reference's manifest."""
        metric, samples = measurement.metric, measurement.samples
        costs = self._costs_of(samples)
        return {
            "metric": metric.identity(),
            "nfe": sum(cost.nfe for cost in costs) / len(costs),
            "sampling_seconds": round(sum(cost.seconds for cost in costs), 3),
            "sampling_device": ", ".join(sorted({cost.device for cost in costs})),
            "extractor_test_accuracy": manifest.extractor_test_accuracy,
            "reference_samples": manifest.images_of(metric.reference_split),
            "reference_sha256": manifest.features_sha256,
        }

    def _accuracy(self, metric: MetricSettings, samples: FeatureSet) -> Estimate | None:
        """Return the share of images whose class the dataset's classifier recognizes."""
        if self.labels is None or metric.extractor.kind != "classifier":
            return None
        answers = samples.logits.argmax(dim=1)
        return mean_estimate(answers == self.labels[: len(samples)])

    def _costs_of(self, samples: int) -> list[Cost]:
        """Return the costs of the shards with the first `samples` images."""
        costs, images = [], 0
        for cost in self.costs:
            if images < samples:
                costs.append(cost)
                images += cost.images
        return costs


def evaluate(settings: EvaluateSettings) -> CellResults:
    """Measure the first images of a cell, and write the results and what they come from.

    Metrics with the same features share their extractor and reference, which are loaded once.

    Raises UserError if a file is missing, damaged, or does not belong to the cell.
    """
    model = read_manifest(settings.model, ModelManifest)
    guide = settings.guide and read_manifest(settings.guide, GuideManifest)
    device = use_device(settings.device)
    sources: dict[str, Source] = {}
    for measurement in settings.measurements:
        metric = measurement.metric
        if metric.features not in sources:
            folders = settings.features[metric.features]
            reference, manifest = load_reference(folders.reference)
            extractor = extractor_for(metric, folders.extractor, manifest.dataset_digest, device)
            check_reference(metric, folders.reference, manifest, extractor, model)
            source = Source(extractor, reference, manifest, metric.batch_size)
            sources[metric.features] = source
    samples = max(measurement.samples for measurement in settings.measurements)
    origin = origin_of(settings, model.weights_sha256, guide and guide.weights_sha256)
    shards = read_shards(settings.shards, samples, origin)
    gathered = gather_shards(shards, sources, settings.measurements)
    kept_file = Path(settings.output).with_suffix(".safetensors")
    kept = save_kept(kept_file, gathered, settings.measurements, settings.keep)
    images = images_digest(
        digest_of(model.settings.identity()),
        guide and digest_of(guide.settings.identity()),
        settings.sampler,
        settings.seed,
        settings.shard_size,
    )
    results = tuple(
        CellResult(
            record=measurement.digest(images),
            model=Weights(**model.identity()),
            guide=guide and Weights(**guide.identity()),
            sampler=settings.sampler.model_dump(mode="json", exclude_none=True),
            seed=settings.seed,
            kept_sha256=kept,
            **gathered.result(measurement, sources[measurement.metric.features]),
            **provenance(),
        )
        for measurement in settings.measurements
    )
    found = CellResults(results=results)
    write_record(settings.output, found)
    return found


def gather_shards(
    shards: Iterable[Shard],
    sources: Mapping[str, Source],
    measurements: Iterable[Measurement],
) -> Gathered:
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
    groups = dict.fromkeys((m.metric.features, m.samples) for m in measurements)
    samples = {(name, n): features[name].first(n) for name, n in groups}
    return Gathered(samples, torch.cat(labels) if labels else None, costs)


def save_kept(
    path: str | Path,
    gathered: Gathered,
    measurements: Iterable[Measurement],
    largest: int,
) -> str:
    """Write a file from which a cell's results can be computed again, and return its SHA-256.

    For an extractor of at most `largest` features, these are the block statistics of the samples
    if all its metrics are Fréchet distances, and else the features. The costs of the shards and the
    labels are always kept.
    """
    kinds: dict[tuple[str, int], set[str]] = {}
    for each in measurements:
        group = kinds.setdefault((each.metric.features, each.samples), set())
        group.add(each.metric.measure.kind)
    tensors = {} if gathered.labels is None else {"labels": gathered.labels}
    for (name, n), features in gathered.samples.items():
        if features.dimension <= largest:
            # The share of recognized labels needs the logits of each sample.
            are_enough = kinds[name, n] == {"frechet"} and gathered.labels is None
            kept = features.block_statistics() if are_enough else features
            prefix = f"{name}/{n}/"
            tensors |= {prefix + key: tensor for key, tensor in kept.tensors().items()}
    return save_tensors(path, "evaluation", tensors, {"costs": gathered.costs})


def load_kept(path: str | Path, sha256: str) -> Gathered:
    """Read what `save_kept` wrote, by the SHA-256 that it returned.

    Raises UserError if the file is missing or damaged.
    """
    stored = read_tensors(path, "evaluation", "evaluate the cell again", sha256)
    tensors = stored.tensors()
    labels = tensors.pop("labels", None)
    groups: dict[tuple[str, int], dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, n, what = key.split("/")
        groups.setdefault((name, int(n)), {})[what] = tensor
    samples = {
        group: (Features if "values" in own else BlockStatistics).from_tensors(own)
        for group, own in groups.items()
    }
    return Gathered(samples, labels, [Cost(*cost) for cost in stored.origin["costs"]])
