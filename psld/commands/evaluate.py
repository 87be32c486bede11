"""Evaluate a cell: metrics of its first images, from one pass over its shards.

    psld evaluate cell=demo/cld/em-quadratic-40      # all metrics of the cell in the grid
    psld evaluate model=models/demo/cld sampler=em sampler.steps=50 \\
        shards=samples/demo/cld/em-uniform-50 samples=1000 metric=fd-classifier \\
        reference=features/digits/fd-classifier/reference extractor=features/digits/fd-classifier \\
        output=result.json
"""

import torch
from pydantic import Field, model_validator

from psld.commands.entry import entry_point
from psld.config.overrides import take
from psld.config.settings import write_record
from psld.grid import paths
from psld.grid.cells import check_others, find_cell, overrides_of_cell
from psld.grid.results import CellResult, CellResults, Weights
from psld.metrics.evaluation import Measurement, Source, gather_shards, save_kept
from psld.metrics.extractor_folder import load_extractor
from psld.metrics.reference_folder import check_reference, load_reference
from psld.metrics.settings import MetricSettings
from psld.sampling.sample import origin_of
from psld.sampling.settings import CellSettings
from psld.sampling.shards import read_shards
from psld.training.manifest import GuideManifest, ModelManifest, read_manifest
from psld.utils.device import use_device
from psld.utils.errors import UserError
from psld.utils.provenance import provenance


class EvaluateSettings(CellSettings):
    """Settings of `psld evaluate`."""

    cell: str | None
    """GRID/MODEL/SAMPLER; the grid then sets the metrics, their samples and all paths."""
    shards: str
    """Folder of the cell's shards."""
    samples: int = Field(ge=3)
    """Without `cell`: number of images to measure, from the first."""
    metric: MetricSettings
    """Without `cell`: the metric."""
    reference: str | None
    """Without `cell`: folder written by psld reference."""
    extractor: str | None
    """Without `cell`: folder written by psld train_extractor; null for a published extractor."""
    output: str
    """Path of the results, JSON."""
    keep: int = Field(ge=1)
    """Keep the features of extractors that have at most this number of them."""

    @model_validator(mode="after")
    def _has_a_reference(self) -> "EvaluateSettings":
        if self.cell is None and self.reference is None:
            raise ValueError("reference: give the folder that psld reference wrote, or a cell")
        return self


def expand(arguments: list[str]) -> list[str]:
    """Expand `cell=GRID/MODEL/SAMPLER` to its overrides, and keep it among them.

    Raises UserError for an unknown cell, for one that is sampled but has no metric, and for
    settings that only the grid decides.
    """
    name, others = take("cell", arguments)
    if name is None:
        return arguments
    grid, model, sampler = find_cell(name)
    if f"{model}/{sampler}" not in grid.evaluations_by_cell:
        raise UserError(
            f"cell={name}: no table shows it, so the grid has no metric for it; "
            f"psld plan grid_name={grid.name} list=cells lists those with metrics"
        )
    check_others(name, others, always=("metric", "samples", "reference", "extractor"))
    return [
        *overrides_of_cell(grid, model, sampler),
        f"cell={name}",
        f"shards={paths.shards_folder(grid.name, model, sampler)}",
        f"output={paths.cell_result(grid.name, f'{model}/{sampler}')}",
        *others,
    ]


@entry_point("evaluate", EvaluateSettings, rewrite=expand)
def main(settings: EvaluateSettings) -> None:
    model = read_manifest(settings.model, ModelManifest)
    guide = settings.guide and read_manifest(settings.guide, GuideManifest)
    sources, measurements = work_of(settings, model, use_device(settings.device))
    samples = max(measurement.samples for measurement in measurements)
    origin = origin_of(settings, model.weights_sha256, guide and guide.weights_sha256)
    shards = read_shards(settings.shards, samples, origin)
    gathered = gather_shards(shards, sources, measurements)
    kept = save_kept(paths.kept(settings.output), gathered, measurements, settings.keep)
    results = tuple(
        CellResult(
            model=Weights(**model.identity()),
            guide=guide and Weights(**guide.identity()),
            sampler=settings.sampler.model_dump(mode="json", exclude_none=True),
            seed=settings.seed,
            kept_sha256=kept,
            **gathered.result(measurement, sources[measurement.metric.features]),
            **provenance(),
        )
        for measurement in measurements
    )
    write_record(settings.output, CellResults(results=results))
    for result in results:
        print(f"{result.metric['name']} of {result.samples} images: {result.value:.4g}")


def work_of(
    settings: EvaluateSettings, model: ModelManifest, device: torch.device
) -> tuple[dict[str, Source], list[Measurement]]:
    """Return the sources and measurements of the grid's cell, or else those of the settings.

    Metrics with the same features share their extractor and reference, which are loaded once.
    """
    if settings.cell is None:
        metric = settings.metric
        source = load_source(model, metric, settings.reference, settings.extractor, device)
        return {metric.features: source}, [Measurement(metric, settings.samples)]
    grid, name, sampler = find_cell(settings.cell)
    sources: dict[str, Source] = {}
    measurements = []
    for evaluation in grid.evaluations_by_cell[f"{name}/{sampler}"]:
        metric = grid.metric(evaluation.metric)
        measurements.append(Measurement(metric, evaluation.samples))
        if metric.features not in sources:
            place = (grid.models[name].dataset, metric.features)
            trained = metric.extractor.kind == "classifier"
            extractor = paths.extractor_folder(*place) if trained else None
            reference = paths.reference_folder(*place)
            sources[metric.features] = load_source(model, metric, reference, extractor, device)
    return sources, measurements


def load_source(
    model: ModelManifest,
    metric: MetricSettings,
    reference_folder: str,
    extractor_folder: str | None,
    device: torch.device,
) -> Source:
    """Load a metric's reference and extractor. Raises UserError if they do not fit the model."""
    reference, manifest = load_reference(reference_folder)
    extractor = load_extractor(metric, extractor_folder, manifest.dataset_digest, device)
    check_reference(metric, reference_folder, manifest, extractor, model)
    return Source(extractor, reference, manifest, metric.batch_size)
