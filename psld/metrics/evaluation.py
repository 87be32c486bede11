"""The evaluation of a cell: one pass over its shards for all its metrics."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from psld.config.settings import MadeRecord, write_record
from psld.metrics.command_settings import EvaluateSettings
from psld.metrics.features import Extractor, Features, batches_of, gather, share_estimate
from psld.metrics.measure import Reference, measure, measure_memorization, scale
from psld.metrics.reference_folder import (
    ReferenceManifest,
    check_reference,
    extractor_for,
    load_reference,
    read_reference_manifest,
)
from psld.metrics.results import CellResult, CellResults, Weights
from psld.metrics.settings import Measurement
from psld.sampling.sample import origin_of
from psld.sampling.settings import images_digest
from psld.sampling.shards import Shard, read_shards
from psld.training.manifest import GuideManifest, ModelManifest, read_manifest
from psld.utils.device import provenance, use_device
from psld.utils.errors import UserError
from psld.utils.files import digest_of
from psld.utils.tensors import read_tensors, save_tensors

NEAREST_PAIRS = 8
"""The number of nearest pairs of sample and training image in a result."""

NUMBERS = {"estimate", "nearest", "class_accuracy", "floor", "noise"}
"""The fields of a result that are computed from features."""


class Cost(NamedTuple):
    """The cost of one shard."""

    images: int
    nfe: int
    seconds: float
    device: str


@dataclass(frozen=True)
class Gathered:
    """The features of a cell's samples and the facts of its shards, for all its results."""

    samples: dict[tuple[str, int], Features]
    """The first images, by `metric.features` and their number."""
    labels: Tensor | None
    """int64, n: the class that each image was guided to; None without guidance to a class."""
    costs: list[Cost]

    def numbers(
        self,
        measurement: Measurement,
        reference: Reference,
        device: torch.device | str = "cpu",
    ) -> dict[str, Any]:
        """Return the fields of a result that are computed from features."""
        metric = measurement.metric
        samples = self.samples[metric.features, measurement.samples]
        numbers = scale(metric, reference, device) | {"nearest": None, "class_accuracy": None}
        if metric.measure.kind == "memorization":
            memorized = measure_memorization(metric, samples, reference, device)
            numbers |= {"estimate": memorized.share, "nearest": memorized.pairs(NEAREST_PAIRS)}
        else:
            numbers["estimate"] = measure(metric, samples, reference, device)
        if self.labels is not None and metric.extractor.kind == "classifier":
            answers = samples.logits.argmax(dim=1)
            numbers["class_accuracy"] = share_estimate(answers == self.labels[: len(samples)])
        return numbers


def evaluate(settings: EvaluateSettings) -> CellResults:
    """Measure the first images of a cell, and write the results and what they come from.

    Metrics with the same features share their extractor and reference, which are loaded once.

    Raises UserError if a file is missing, damaged, or does not belong to the cell.
    """
    model, guide = _manifests(settings)
    device = use_device(settings.device)
    references: dict[str, tuple[Reference, ReferenceManifest]] = {}
    extractors: dict[str, Extractor] = {}
    for measurement in settings.measurements:
        metric = measurement.metric
        if (name := metric.features) not in references:
            folders = settings.features[name]
            references[name] = load_reference(folders.reference)
            _, manifest = references[name]
            extractors[name] = extractor_for(
                metric, folders.extractor, manifest.dataset_digest, device
            )
            check_reference(metric, folders.reference, manifest, extractors[name].digest, model)
    samples = max(measurement.samples for measurement in settings.measurements)
    origin = origin_of(
        settings, model.settings, model.weights_sha256, guide and guide.weights_sha256
    )
    shards = read_shards(settings.shards, samples, origin)
    gathered = _gather_shards(shards, extractors, settings)
    kept = save_kept(_kept_file(settings), gathered, settings.keep)
    results = []
    for measurement in settings.measurements:
        reference, manifest = references[measurement.metric.features]
        numbers = gathered.numbers(measurement, reference, device)
        facts = _facts(settings, measurement, model, guide, gathered, manifest)
        results.append(CellResult(**facts, **numbers, kept_sha256=kept, **provenance()))
    record = CellResults(results=tuple(results))
    write_record(settings.output, record)
    return record


Loaded = dict[tuple[str, bool], tuple[Reference | None, ReferenceManifest]]
"""References by their folder, with their features (True) or without."""


class Recomputed(NamedTuple):
    """The results of a cell, computed again."""

    results: CellResults
    gathered: Gathered
    """What they were computed from."""
    taken: set[str]
    """The records of those whose numbers were taken over."""


def recompute(
    settings: EvaluateSettings, stated: CellResults, loaded: Loaded, measure: bool = True
) -> Recomputed:
    """Compute the results of a cell again from what `evaluate` kept: no shards, no extractor.

    Of the stated results, take over the software, and the numbers whose features were not kept.

    Args:
        loaded: the references of other cells; those of this cell are added.
        measure: False takes over all numbers: to compute them takes long.

    Raises UserError if a file is missing, damaged, or does not belong to the cell.
    """
    model, guide = _manifests(settings)
    kept = stated.results[0].kept_sha256
    gathered = load_kept(_kept_file(settings), kept)
    results, taken = [], set()
    for measurement, result in zip(settings.measurements, stated.results, strict=True):
        metric = measurement.metric
        folder = settings.features[metric.features].reference
        has_features = (metric.features, measurement.samples) in gathered.samples
        if (key := (folder, has_features)) not in loaded:
            manifest = None if has_features else read_reference_manifest(folder)
            loaded[key] = load_reference(folder) if has_features else (None, manifest)
        reference, manifest = loaded[key]
        check_reference(metric, folder, manifest, manifest.extractor_digest, model)
        facts = _facts(settings, measurement, model, guide, gathered, manifest)
        if result.floor_samples is None:  # Earlier versions did not write it.
            facts["floor_samples"] = None
        software = result.model_dump(include=set(MadeRecord.model_fields))
        if reference and measure:
            numbers = gathered.numbers(measurement, reference)
        else:
            numbers = result.model_dump(include=NUMBERS)
            taken.add(result.record)
        results.append(CellResult(**facts, **numbers, kept_sha256=kept, **software))
    return Recomputed(CellResults(results=tuple(results)), gathered, taken)


def _manifests(settings: EvaluateSettings) -> tuple[ModelManifest, GuideManifest | None]:
    model = read_manifest(settings.model, ModelManifest)
    return model, settings.guide and read_manifest(settings.guide, GuideManifest)


def _kept_file(settings: EvaluateSettings) -> Path:
    return Path(settings.output).with_suffix(".safetensors")


def _facts(
    settings: EvaluateSettings,
    measurement: Measurement,
    model: ModelManifest,
    guide: GuideManifest | None,
    gathered: Gathered,
    reference: ReferenceManifest,
) -> dict[str, Any]:
    """Return the fields of a result that are not computed from features."""
    metric, weights, process = measurement.metric, model.identity(), None
    firsts = accumulate((cost.images for cost in gathered.costs), initial=0)
    pairs = zip(gathered.costs, firsts, strict=False)
    costs = [cost for cost, first in pairs if first < measurement.samples]
    if model.settings.serves_every_process:
        process = settings.process or model.settings.process
        weights["settings"]["process"] = process.model_dump(mode="json")
    images = images_digest(
        digest_of(model.settings.identity()),
        guide and digest_of(guide.settings.identity()),
        settings.sampler,
        settings.seed,
        settings.shard_size,
        process,
    )
    return {
        "record": measurement.digest(images),
        "metric": metric.identity(),
        "nfe": sum(cost.nfe * cost.images for cost in costs) / sum(cost.images for cost in costs),
        "sampling_seconds": round(sum(cost.seconds for cost in costs), 3),
        "sampling_device": ", ".join(sorted({cost.device for cost in costs})),
        **reference.facts(metric.reference_split),
        "model": Weights(**weights),
        "guide": guide and Weights(**guide.identity()),
        "sampler": settings.sampler.model_dump(mode="json", exclude_none=True),
        "seed": settings.seed,
    }


def _gather_shards(
    shards: Iterable[Shard], extractors: Mapping[str, Extractor], settings: EvaluateSettings
) -> Gathered:
    """Read each shard once and extract the features of its images with each extractor.

    Memory for 50,000 samples with Inception's features and logits is 0.6 GB.
    """
    parts: dict[str, list[Features]] = {name: [] for name in extractors}
    batch_sizes = {m.metric.features: m.metric.batch_size for m in settings.measurements}
    labels, costs = [], []
    for shard in shards:
        count = len(shard.images)
        for name, extractor in extractors.items():
            batches = batches_of(shard.images, batch_sizes[name])
            parts[name].append(gather(extractor, batches, name, count))
        if shard.labels is not None:
            labels.append(torch.from_numpy(shard.labels))
        costs.append(Cost(count, shard.nfe, shard.seconds, shard.device))
    features = {name: Features.joined(each) for name, each in parts.items()}
    groups = [(m.metric.features, m.samples) for m in settings.measurements]
    samples = {(name, n): features[name].first(n) for name, n in groups}
    return Gathered(samples, torch.cat(labels) if labels else None, costs)


def save_kept(path: str | Path, gathered: Gathered, largest: int) -> str:
    """Write a file from which a cell's results can be computed again, and return its SHA-256.

    It has the features of extractors with at most `largest` of them, the costs of the shards, and
    the labels.
    """
    tensors = {} if gathered.labels is None else {"labels": gathered.labels}
    for (name, n), features in gathered.samples.items():
        if features.values.shape[1] <= largest:
            tensors |= {f"{name}/{n}/{key}": each for key, each in features.tensors().items()}
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
    samples = {group: Features.from_tensors(each) for group, each in groups.items()}
    for (name, n), features in samples.items():
        if any(len(tensor) != n for tensor in features.tensors().values()):
            raise UserError(f"{path}: {name}: features of {len(features)} samples, not of {n}")
    return Gathered(samples, labels, [Cost(*cost) for cost in stored.origin["costs"]])
