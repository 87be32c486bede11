"""The evaluation of a grid's cell: from its shards, or again from what was kept of them."""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from psld.metrics.command_settings import EvaluateSettings
from psld.metrics.evaluation import Gathered, Part, Source, evaluate, kept_file, load_kept
from psld.metrics.measure import Reference
from psld.metrics.reference_folder import (
    Basis,
    ReferenceManifest,
    check_reference,
    folder_basis,
    load_reference,
    read_reference_manifest,
)
from psld.metrics.results import CellResults, Weights
from psld.sampling.sample import origin_of
from psld.sampling.settings import images_digest
from psld.sampling.shards import read_shards
from psld.training.manifest import GuideManifest, ModelManifest, read_manifest
from psld.utils.device import use_device
from psld.utils.files import digest_of


def evaluate_cell(settings: EvaluateSettings) -> CellResults:
    """Measure the first images of a cell, and write the results and what they come from.

    Metrics with the same features share their extractor and reference, which are loaded once.

    Raises UserError if a file is missing, damaged, or does not belong to the cell.
    """
    model, guide = _manifests(settings)
    device, bases = use_device(settings.device), {}
    for metric in (measurement.metric for measurement in settings.measurements):
        if (name := metric.features) not in bases:
            folders = settings.features[name]
            bases[name] = folder_basis(metric, folders.reference, folders.extractor, device, model)
    source = replace(_source(settings, model, guide), parts=_parts(settings, model, guide))
    return evaluate(source, settings.measurements, bases, device, settings.output, settings.keep)


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
    gathered = load_kept(kept_file(settings.output), stated.results[0].kept_sha256)
    bases, taken = {}, set()
    for measurement, result in zip(settings.measurements, stated.results, strict=True):
        metric = measurement.metric
        folder = settings.features[metric.features].reference
        has_features = (metric.features, measurement.samples) in gathered.samples
        if (key := (folder, has_features)) not in loaded:
            manifest = None if has_features else read_reference_manifest(folder)
            loaded[key] = load_reference(folder) if has_features else (None, manifest)
        reference, manifest = loaded[key]
        check_reference(metric, folder, manifest, manifest.extractor_digest, model)
        bases[metric.features] = Basis(reference if measure else None, manifest.facts)
        if not (reference and measure):
            taken.add(result.record)
    source = replace(_source(settings, model, guide), kept=gathered, stated=stated.results)
    return Recomputed(evaluate(source, settings.measurements, bases), gathered, taken)


def _manifests(settings: EvaluateSettings) -> tuple[ModelManifest, GuideManifest | None]:
    model = read_manifest(settings.model, ModelManifest)
    return model, settings.guide and read_manifest(settings.guide, GuideManifest)


def _parts(
    settings: EvaluateSettings, model: ModelManifest, guide: GuideManifest | None
) -> Iterator[Part]:
    """Read the shards that hold the images of all measurements."""
    shas = model.weights_sha256, guide and guide.weights_sha256
    samples = max(measurement.samples for measurement in settings.measurements)
    origin = origin_of(settings, model.settings, *shas)
    yield from map(Part.of, read_shards(settings.shards, samples, origin))


def _source(
    settings: EvaluateSettings, model: ModelManifest, guide: GuideManifest | None
) -> Source:
    """Return the source of a cell, without its images."""
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
    return Source(facts, digest=lambda reference: images)
