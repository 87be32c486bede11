"""The evaluation of images by several metrics, from one pass over them.

`evaluate` serves the job of a cell, `psld evaluate images=`, `psld verify` and the library. They
differ in their source: a cell's shards, or what was kept of them, or images of others
(`psld.metrics.images`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from psld.config.settings import MadeRecord, write_record
from psld.metrics.features import Features, batches_of, gather, share_estimate
from psld.metrics.measure import (
    Reference,
    measure,
    measure_memorization,
    measure_reference,
    scale,
)
from psld.metrics.reference_folder import (
    Basis,
    ReferenceManifest,
    check_reference,
    folder_basis,
    load_reference,
    read_reference_manifest,
)
from psld.metrics.results import CellResult, CellResults, Weights
from psld.metrics.settings import EvaluateSettings, Measurement
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
"""The fields of a cell's result that are computed from features."""


class Cost(NamedTuple):
    """The cost of one shard."""

    images: int
    nfe: int
    seconds: float
    device: str


@dataclass(frozen=True)
class Gathered:
    """The features of images and the facts of their shards, for all results."""

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
        if samples.numbers is not None:  # images of others
            numbers["reference_estimate"] = measure_reference(metric, samples, reference, device)
        if self.labels is not None and metric.extractor.kind == "classifier":
            answers = samples.logits.argmax(dim=1)
            numbers["class_accuracy"] = share_estimate(answers == self.labels[: len(samples)])
        return numbers

    def has(self, measurement: Measurement) -> bool:
        """Check if there are features for a measurement."""
        return (measurement.metric.features, measurement.samples) in self.samples

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


class Source(NamedTuple):
    """What is measured: images, or what an evaluation has kept of them."""

    facts: dict[str, Any]
    """The fields of each result about the images."""
    digest: Callable[[str], str]
    """Returns the digest of what decides a result but for the metric, from its reference's."""
    parts: Iterable[Shard | np.ndarray]
    """The images in their order: shards, or uint8 n×C×H×W."""
    numbers: Tensor | None = None
    """`distinct_numbers` of images of others; None for a cell's."""
    silent: bool | None = None
    """Show no progress bars; None shows them on a terminal."""
    kept: Gathered | None = None
    """What was kept; the images are then not read."""
    stated: Sequence[CellResult] | None = None
    """The results that were kept with it. New ones take over how they were computed, and their
    numbers if the features of the reference are missing."""

    def gather(self, bases: Mapping[str, Basis], measurements: Sequence[Measurement]) -> Gathered:
        """Read each image once, and extract its features with each extractor.

        Memory for 50,000 samples with Inception's features and logits is 0.6 GB.
        """
        found: dict[str, list[Features]] = {name: [] for name in bases}
        batch_sizes = {m.metric.features: m.metric.batch_size for m in measurements}
        labels, costs, left = [], [], max(m.samples for m in measurements)
        for part in self.parts:
            images = (part.images if isinstance(part, Shard) else part)[:left]
            left -= len(images)
            for name, basis in bases.items():
                batches = batches_of(images, batch_sizes[name])
                each = gather(basis.extractor, batches, name, len(images), self.silent)
                found[name].append(each)
            if isinstance(part, Shard):
                costs.append(Cost(len(images), part.nfe, part.seconds, part.device))
                labels += [] if part.labels is None else [torch.from_numpy(part.labels)]
            if not left:
                break
        features = {name: Features.joined(each) for name, each in found.items()}
        groups = [(m.metric.features, m.samples) for m in measurements]
        samples = {(f, n): replace(features[f].first(n), numbers=self.numbers) for f, n in groups}
        return Gathered(samples, torch.cat(labels) if labels else None, costs)


def evaluate(
    source: Source,
    bases: Mapping[str, Basis],
    measurements: Sequence[Measurement],
    device: torch.device | str = "cpu",
    output: str | None = None,
    keep: int = 512,
) -> CellResults:
    """Measure images, and write the results and what they come from if `output` is a path.

    Args:
        bases: what the images are compared with, by `metric.features`.
        keep: the most features of an extractor for which they are kept.

    Raises UserError if images are missing or damaged, or too few for a metric.
    """
    gathered = source.kept or source.gather(bases, measurements)
    kept = save_kept(Path(output).with_suffix(".safetensors"), gathered, keep) if output else None
    made, results = {"kept_sha256": kept, **provenance()}, []
    every = source.stated or [None] * len(measurements)
    for measurement, stated in zip(measurements, every, strict=True):
        metric = measurement.metric
        basis = bases[metric.features]
        facts = basis.facts(metric.reference_split) | gathered.spent(measurement.samples)
        if stated:
            made = stated.model_dump(include={"kept_sha256", *MadeRecord.model_fields})
            if stated.floor_samples is None:  # Earlier versions did not write it.
                facts["floor_samples"] = None
        numbers = (
            gathered.numbers(measurement, basis.reference, device)
            if basis.reference
            else stated.model_dump(include=NUMBERS)
        )
        record = measurement.digest(source.digest(facts["reference_sha256"]))
        about = {"record": record, "metric": metric.identity(), **source.facts}
        results.append(CellResult(**about, **facts, **numbers, **made))
    record = CellResults(results=tuple(results))
    if output:
        write_record(output, record)
    return record


# -- the cells of a grid --------------------------------------------------------------------------


def evaluate_cell(settings: EvaluateSettings) -> CellResults:
    """Measure the first images of a cell, and write the results and what they come from.

    Metrics with the same features share their extractor and reference, which are loaded once.

    Raises UserError if a file is missing, damaged, or does not belong to the cell.
    """
    source, model = _source(settings)
    device, bases = use_device(settings.device), {}
    for metric in (measurement.metric for measurement in settings.measurements):
        if (name := metric.features) not in bases:
            folders = settings.features[name]
            bases[name] = folder_basis(metric, folders.reference, folders.extractor, device, model)
    return evaluate(source, bases, settings.measurements, device, settings.output, settings.keep)


Loaded = dict[tuple[str, bool], tuple[Reference | None, ReferenceManifest]]
"""References by their folder, with their features (True) or without."""


def recompute(
    settings: EvaluateSettings,
    stated: CellResults,
    gathered: Gathered,
    loaded: Loaded,
    measure: bool = True,
) -> CellResults:
    """Compute the results of a cell again from what was kept: no shards, no extractor.

    Of the stated results, take over the software, and the numbers whose features were not kept.

    Args:
        loaded: the references of other cells; those of this cell are added.
        measure: False takes over all numbers: to compute them takes long.

    Raises UserError if a file is missing, damaged, or does not belong to the cell.
    """
    (source, model), bases = _source(settings), {}
    for measurement in settings.measurements:
        metric = measurement.metric
        folder = settings.features[metric.features].reference
        key = folder, gathered.has(measurement)
        if key not in loaded:
            manifest = None if key[1] else read_reference_manifest(folder)
            loaded[key] = load_reference(folder) if key[1] else (None, manifest)
        reference, manifest = loaded[key]
        check_reference(metric, folder, manifest, manifest.extractor_digest, model)
        bases[metric.features] = Basis(reference if measure else None, manifest.facts)
    source = source._replace(kept=gathered, stated=stated.results)
    return evaluate(source, bases, settings.measurements)


def _source(settings: EvaluateSettings) -> tuple[Source, ModelManifest]:
    """Return the source of a cell, whose shards are read later, and its model."""
    model = read_manifest(settings.model, ModelManifest)
    guide = settings.guide and read_manifest(settings.guide, GuideManifest)
    weights, process = model.identity(), None
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
    facts = {
        "model": Weights(**weights),
        "guide": guide and Weights(**guide.identity()),
        "sampler": settings.sampler.model_dump(mode="json", exclude_none=True),
        "seed": settings.seed,
    }

    def shards() -> Iterator[Shard]:
        samples = max(measurement.samples for measurement in settings.measurements)
        shas = model.weights_sha256, guide and guide.weights_sha256
        origin = origin_of(settings, model.settings, *shas)
        yield from read_shards(settings.shards, samples, origin)

    return Source(facts, lambda reference: images, shards()), model


# -- what is kept ---------------------------------------------------------------------------------


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
