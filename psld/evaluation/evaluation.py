"""Evaluate images by several metrics in one pass over the images.

The images are the shards of a cell, or external images (`images.py`). The results of a cell can
also be recomputed from the features that an earlier evaluation stored.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from psld.config.parts import imported
from psld.config.settings import MadeRecord, write_record
from psld.data.pictures import BATCH, AsPictures, decoder
from psld.data.settings import Autoencoder
from psld.evaluation.folders import (
    Basis,
    ReferenceManifest,
    check_reference,
    folder_basis,
    load_reference,
)
from psld.evaluation.results import CellResult, CellResults, Weights
from psld.evaluation.settings import EvaluateSettings, Measurement
from psld.metrics.blocks import assign_blocks, share_estimate
from psld.metrics.extraction import Collector, batches_of, extract
from psld.metrics.features import BlockMoments, Device, Features, FeatureStatistics, Reference
from psld.models.manifest import GuideManifest, ModelManifest, read_manifest
from psld.sampling.settings import images_digest
from psld.sampling.shards import Shard, origin_of, read_shards
from psld.utils.code import code_digest
from psld.utils.device import give_back, provenance, use_device
from psld.utils.errors import UserError
from psld.utils.files import digest_of
from psld.utils.progress import Progress
from psld.utils.tensors import load_tensors, save_tensors

NUMBERS = {"estimate", "void", "nearest", "class_accuracy", "floor", "noise"}
"""The fields of a result that are computed from features."""

START_FACTS = {"start_sha256", "gaussians"}
"""The fields of a result about the initial distribution of its samples."""


class Cost(NamedTuple):
    """The cost of sampling a shard, and the device that sampled it."""

    images: int
    nfe: int
    seconds: float
    device: str


@dataclass(frozen=True)
class GatheredFeatures:
    """The features of images and the costs of their shards, for all results of an evaluation."""

    samples: Mapping[tuple[str, int], Features | BlockMoments]
    """The features of the first n images, keyed by (`metric.features`, n). If the metrics need only
    moments, the values are the moments of each block instead."""
    labels: Tensor | None
    """int64, N: the class of each image; None without guidance to classes."""
    costs: list[Cost]
    moments: dict[tuple[str, int], FeatureStatistics] = field(default_factory=dict)
    """Mean and covariance of features that are too large to be kept, with the keys of `samples`."""

    def has(self, measurement: Measurement) -> bool:
        """Check if a measurement can be computed: its features and its measure are available."""
        return not measurement.metric.measure.is_data and measurement.group in self.samples

    def recomputes(self, measurement: Measurement) -> bool:
        """Check if the value of a measurement can be computed, from features or their moments."""
        of_moments = measurement.metric.measure.of_moments
        return self.has(measurement) or (of_moments and measurement.group in self.moments)

    def spent(self, samples: int) -> dict[str, Any]:
        """Return the fields of a result about the cost of its images; empty if it is unknown."""
        costs, images = [], 0
        for cost in self.costs:
            if images < samples:
                costs.append(cost)
                images += cost.images
        if not costs:
            return {}
        return {
            "nfe": sum(cost.nfe * cost.images for cost in costs) / images,
            "sampling_seconds": round(sum(cost.seconds for cost in costs), 3),
            "sampling_device": ", ".join(sorted({cost.device for cost in costs})),
        }


class ImageSource(NamedTuple):
    """The images to evaluate, and the facts about them for the results."""

    facts: dict[str, Any]
    """Facts about the images, which become fields of each result."""
    digest: Callable[[str], str]
    """Maps the digest of the reference to the digest of everything that determines a result, except
    the metric."""
    chunks: Iterable[Shard | np.ndarray]
    """The images in order: shards, or arrays n×C×H×W."""
    numbers: Tensor | None = None
    """`distinct_numbers` of external images; None for a cell."""
    silent: bool = False


def evaluate(
    source: ImageSource,
    bases: dict[str, Basis],
    measurements: Sequence[Measurement],
    device: Device = "cpu",
    output: str | None = None,
    keep: int = 512,
    decode: Autoencoder | None = None,
    record: str | Path = "data",
) -> CellResults:
    """Evaluate images.

    Each Fréchet distance takes a minute of CPU time, so Fréchet distances are computed last, after
    the GPU was released. The features of n images, 4·n·d bytes for d features, are in memory only
    if a metric `needs_features` or d is at most `keep`; otherwise memory does not depend on n.

    Args:
        bases: the references and their extractors, by `metric.features`. The extractors are removed
            after use.
        output: path of the results, JSON; the features are written next to it. None: write nothing.
        keep: write the features of extractors with at most this number of features, and the mean
            and covariance of the features of other extractors.
        decode: makes pictures from tensors, for metrics of pictures.
        record: the folder of the file that names `decode`; see `imported`.

    Raises UserError if images are missing or damaged. Measures may raise errors for too few images.
    """
    needs = decode and any(m.metric.extractor.sees == "pictures" for m in measurements)
    as_pictures = decoder(decode, device, record) if decode and needs else None
    gathered = _gather(source, bases, measurements, keep, as_pictures)
    bases.update({name: basis._replace(extractor=None) for name, basis in bases.items()})
    caches = {name: CachedValues(basis, device) for name, basis in bases.items()}

    def numbers(m: Measurement, device: Device) -> dict[str, Any]:
        name = m.metric.features
        reference = bases[name].reference._replace(cache=caches[name])
        return _numbers(gathered, m, reference, device) | m.metric.scale(reference, device)

    found = {m: numbers(m, device) for m in measurements if not m.metric.measure.of_moments}
    give_back(torch.device(device))
    kept = save_kept(Path(output).with_suffix(".safetensors"), gathered, keep) if output else None
    made, results = {"kept_sha256": kept, **provenance()}, []
    for measurement in measurements:
        values = found.get(measurement) or numbers(measurement, "cpu")
        facts = bases[measurement.metric.features].facts
        results.append(_result(source, measurement, facts, gathered, values | made, decode))
    for each in caches.values():
        each.save()
    whole = CellResults(results=tuple(results))
    if output:
        write_record(output, whole)
    return whole


def _gather(
    source: ImageSource,
    bases: Mapping[str, Basis],
    measurements: Sequence[Measurement],
    keep: int,
    as_pictures: AsPictures | None,
) -> GatheredFeatures:
    """Read each image once, and extract its features with each extractor that needs this image."""
    moments: dict[tuple[str, int], BlockMoments] = {}
    for group in (each.group for each in measurements):
        blocks = assign_blocks(group[1] if source.numbers is None else source.numbers)
        moments[group] = BlockMoments(blocks, source.numbers)
    needs_features = {m.metric.features for m in measurements if m.metric.needs_features}
    collectors = {}
    for name in bases:
        wanted = [each for group, each in moments.items() if group[0] == name]
        collectors[name] = Collector([] if name in needs_features else wanted, keep)
    sees = {m.metric.features: m.metric.extractor.sees for m in measurements}
    batch_sizes = {m.metric.features: m.metric.batch_size for m in measurements}
    needed: dict[str, int] = {}
    for each in measurements:
        name = each.metric.features
        needed[name] = max(each.samples, needed.get(name, 0))
    labels, costs, left = [], [], max(needed.values())
    names, extractions = " and ".join(bases), sum(needed.values())
    with closing(Progress(names, "extraction", extractions, silent=source.silent)) as progress:
        for part in in_parts(source.chunks) if as_pictures else source.chunks:
            images = (part.images if isinstance(part, Shard) else part)[:left]
            left -= len(images)
            seen = {"values": images, "pictures": as_pictures(images) if as_pictures else images}
            for name, basis in bases.items():
                if len(asked := seen[sees[name]][: needed[name]]):
                    needed[name] -= len(asked)
                    batches = batches_of(asked, batch_sizes[name])
                    extract(cast(Any, basis.extractor), batches, progress, collectors[name])
            if isinstance(part, Shard):
                costs.append(Cost(len(images), part.nfe, part.seconds, part.device))
                labels += [] if part.labels is None else [torch.from_numpy(part.labels)]
            if not left:
                break
    found, samples = {name: each.finish() for name, each in collectors.items()}, {}
    for (name, n), each in moments.items():
        kept = found[name]
        samples[name, n] = replace(kept.first(n), numbers=source.numbers) if kept else each
    return GatheredFeatures(samples, torch.cat(labels) if labels else None, costs)


def in_parts(chunks: Iterable[Shard | np.ndarray]) -> Iterator[Shard | np.ndarray]:
    """Divide arrays into parts, so that only the pictures of one part are in memory."""
    for chunk in chunks:
        if isinstance(chunk, Shard):
            yield chunk
        else:
            yield from (chunk[i : i + BATCH] for i in range(0, len(chunk), BATCH))


def save_kept(path: str | Path, gathered: GatheredFeatures, largest: int) -> str:
    """Write a file from which results can be recomputed, and return its SHA-256.

    The file holds labels, costs, and features. If an extractor has more than `largest` features,
    the file holds the mean and the covariance of these features instead.
    """
    tensors = {} if gathered.labels is None else {"labels": gathered.labels}
    for (name, n), features in gathered.samples.items():
        kept = features.total
        if isinstance(features, Features) and features.values.shape[1] <= largest:
            kept = features
        tensors |= {f"{name}/{n}/{key}": each for key, each in kept.tensors().items()}
    return save_tensors(path, "evaluation", tensors, {"costs": gathered.costs})


def load_kept(path: str | Path, sha256: str) -> GatheredFeatures:
    """Read a file that `save_kept` wrote, with the SHA-256 that `save_kept` returned.

    Raises UserError if the file is missing or damaged, or has a wrong number of samples.
    """
    stored = load_tensors(path, "evaluation", "evaluate the cell again", sha256)
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
            raise UserError(f"{path}: {name}: has features of {wrong.pop()} samples, not {n}")
        samples[name, n] = Features(**each)
    costs = [Cost(*cost) for cost in stored.origin["costs"]]
    return GatheredFeatures(samples, labels, costs, moments)


# -- the results ----------------------------------------------------------------------------------


def _numbers(
    gathered: GatheredFeatures, measurement: Measurement, reference: Reference, device: Device
) -> dict[str, Any]:
    """Return the fields of a result that are computed from features."""
    metric, samples = measurement.metric, gathered.samples[measurement.group]
    found = metric.evaluate(samples, reference, device)
    numbers = {"class_accuracy": None, **found._asdict()}
    if samples.numbers is not None:  # external images
        if found.void:
            raise UserError(f"{metric.name}: {found.void}")
        numbers["reference_estimate"] = metric.exchanged_estimate(samples, reference, device)
    if gathered.labels is not None and metric.extractor.classifies:
        answers = cast(Any, samples).logits.argmax(dim=1)
        recognized = answers == gathered.labels[: len(samples)]
        numbers["class_accuracy"] = share_estimate(recognized, samples.blocks())
    return numbers


class CachedValues(dict[str, Tensor]):
    """A cache of values that depend only on a reference, shared by all cells that use it.

    Computing these values can take longer than evaluating a cell. The cache is a file in
    .cache/references, if the working directory has a folder .cache. Damaged files are replaced. A
    reference without a folder is not cached, because its features have no digest.
    """

    def __init__(self, basis: Basis, device: Device) -> None:
        features = basis.facts("train")["reference_sha256"]
        decides = [features, f"{device}", torch.__version__, code_digest("evaluation", "metrics")]
        self.path = Path(".cache/references", f"{digest_of(decides)}.safetensors")
        self.origin = {"decides": decides}
        self.lasts = basis.reference.noise is not None and self.path.parents[1].is_dir()
        if self.lasts:
            with suppress(UserError, OSError):
                stored = load_tensors(self.path, "reference", "")
                self.update(stored.tensors() if stored.origin == self.origin else {})
        self.stored = len(self)

    def save(self) -> None:
        """Write the file if there are new values."""
        if self.lasts and len(self) > self.stored:
            with suppress(OSError):
                save_tensors(self.path, "reference", self, self.origin)


def _result(
    source: ImageSource,
    measurement: Measurement,
    reference_facts: Callable[[str], dict[str, Any]],
    gathered: GatheredFeatures,
    fields: dict[str, Any],
    decode: Autoencoder | None,
) -> CellResult:
    """Return a result with these fields, and with the facts about images, reference and cost."""
    metric = measurement.metric
    facts = reference_facts(metric.reference_split) | gathered.spent(measurement.samples)
    decode = decode if metric.extractor.sees == "pictures" else None
    record = measurement.digest(source.digest(facts["reference_sha256"]), decode)
    about = {"record": record, "metric": metric.identity(), **source.facts}
    return CellResult(**about, **facts, **fields)


# -- the cells of a grid --------------------------------------------------------------------------


def evaluate_cell(settings: EvaluateSettings) -> CellResults:
    """Evaluate the first images of a cell, and write the results and the features.

    Raises UserError if a file is missing, damaged, or does not belong to the cell.
    """
    measurements = imported(settings.measurements)
    model = read_manifest(settings.model, ModelManifest)
    source = _source(settings, model, _start_facts(settings, model))
    device, bases = use_device(settings.device), {}
    for metric in (measurement.metric for measurement in measurements):
        if (name := metric.features) not in bases:
            folders = settings.features[name]
            given = folders.reference, folders.extractor, device, model, settings.decode
            bases[name] = folder_basis(metric, *given)
    given = device, settings.output, settings.keep, settings.decode
    return evaluate(source, bases, measurements, *given)


def recompute(
    settings: EvaluateSettings,
    stated: CellResults,
    gathered: GatheredFeatures,
    loaded: dict[str, tuple[Reference, ReferenceManifest]],
    compute: bool = True,
) -> CellResults:
    """Recompute the results of a cell from stored features, without shards and extractors.

    Args:
        stated: the earlier results. The provenance, and numbers whose features were not stored, are
            copied from these results. If a Fréchet distance is recomputed from mean and covariance,
            its interval is copied, too.
        gathered: the stored features.
        loaded: references that are already loaded, by folder. References of this cell are added.
        compute: False copies all numbers from `stated`.

    Raises UserError if a file is missing, damaged, or does not belong to the cell.
    """
    model, results = read_manifest(settings.model, ModelManifest), []
    source = _source(settings, model, stated.results[0].model_dump(include=START_FACTS))
    for measurement, before in zip(settings.measurements, stated.results, strict=True):
        metric = measurement.metric
        folder = settings.features[metric.features].reference
        if folder not in loaded:
            loaded[folder] = load_reference(folder)
        reference, manifest = loaded[folder]
        check_reference(metric, folder, manifest, manifest.extractor_digest, model)
        values = before.model_dump(include=NUMBERS)
        if compute and gathered.has(measurement):
            values = _numbers(gathered, measurement, reference, "cpu") | metric.scale(reference)
        elif compute and gathered.recomputes(measurement):
            moments = gathered.moments[measurement.group]
            values |= metric.scale(reference)
            values["estimate"]["value"] = metric.value(moments, reference)
        values |= before.model_dump(include={"kept_sha256", *MadeRecord.model_fields})
        facts = manifest.facts
        results.append(_result(source, measurement, facts, gathered, values, settings.decode))
    return CellResults(results=tuple(results))


def _start_facts(settings: EvaluateSettings, model: ModelManifest) -> dict[str, Any]:
    """Return the facts of a result about the initial distribution of its samples."""
    if not settings.sampler.starts_from_data:
        return dict.fromkeys(START_FACTS)
    # Imported late, because most cells start from the prior and do not need this module.
    from psld.models.start import find_start

    images = model.settings.dataset, model.dataset_digest
    places = settings.start, Path(settings.model)
    start = find_start(*images, settings.sampler.asks_for_classes, *places)
    return {"start_sha256": start.sha256, "gaussians": start.data.components()[0]}


def _source(settings: EvaluateSettings, model: ModelManifest, start: dict[str, Any]) -> ImageSource:
    """Return the images of a cell; shards are read on iteration. `start` contains START_FACTS."""
    guide = read_manifest(settings.guide, GuideManifest) if settings.guide else None
    weights, process = model.identity(), model.settings.sampled_as(settings.process)
    if process:
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
        **start,
    }

    def shards() -> Iterator[Shard]:
        samples = max(measurement.samples for measurement in settings.measurements)
        origin = origin_of(settings, model, guide, start["start_sha256"])
        yield from read_shards(settings.shards, samples, origin)

    return ImageSource(facts, lambda reference: images, shards())
