"""The results of a grid as runs for wandb, computed from the files on disk."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from psld.data.picture import tiled
from psld.grid.entries import paper_values, read_table
from psld.grid.figures import figures_of
from psld.grid.places import Evaluation
from psld.grid.resolved import Grid
from psld.grid.results import CellResult, read_result
from psld.report.formats import record
from psld.report.table import text_of
from psld.sampling.shards import Shard, shard_path
from psld.utils.files import digest_of

SIDE = 8
"""Rows and columns of the picture of a cell's first images."""

TableContent = tuple[list[str], list[list[Any]]]  # columns and lines


@dataclass(frozen=True)
class ResultRun:
    """One run: a cell's sampling, one of its metrics, a table, or the grid's figures."""

    id: str
    job_type: str  # the command that made the result
    name: str
    config: dict[str, Any]
    tags: tuple[str, ...] = ()  # dataset and metric; runs with the same tags are comparable
    values: dict[str, Any] = field(default_factory=dict)
    images: dict[str, np.ndarray | Path] = field(default_factory=dict)  # H×W×C, or PNG files
    tables: dict[str, TableContent] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """The options of `wandb.init` that do not depend on where the run goes."""
        return {key: getattr(self, key) for key in ("id", "job_type", "name", "config", "tags")}

    @property
    def digest(self) -> str:
        images = {}
        for name, image in self.images.items():
            content = image.read_bytes() if isinstance(image, Path) else image.tobytes()
            images[name] = hashlib.sha256(content).hexdigest()
        return digest_of([self.options, self.values, images, self.tables])


def run_id(grid: Grid, job_type: str, *identity: str | int) -> str:
    """Return the id of a result's run. A changed result keeps it."""
    return f"{job_type}-{digest_of([grid.name, *identity])[:12]}"


def evaluation_id(grid: Grid, evaluation: Evaluation) -> str:
    return run_id(grid, "evaluate", evaluation.cell, evaluation.metric, evaluation.samples)


def result_runs(grid: Grid, cells: Path, samples: Path, figures: Path) -> Iterator[ResultRun]:
    """Yield the runs of all results so far, in the order of the grid's tables."""
    papers = paper_values(grid)
    for cell in grid.cells:
        found = [(e, read_result(grid, cells, e)) for e in grid.evaluations_by_cell[cell]]
        results = {evaluation: result for evaluation, result in found if result}
        if not results:
            continue
        shard = shard_path(samples / cell, 0)
        images = {}
        if shard.exists():
            images["samples"] = tiled(Shard.load(shard).images[: SIDE * SIDE], SIDE)
        largest = max(results, key=lambda evaluation: evaluation.samples)
        yield _sampling_run(grid, largest, results[largest], images)
        for evaluation, result in results.items():
            paper = papers.get(evaluation, {}).get("value")
            sampling = _sampling_run(grid, evaluation, result, images)
            yield _evaluation_run(grid, evaluation, result, paper, sampling)
    for name in grid.file.tables:
        yield from _table_runs(grid, name, cells)
    paths = {name: figures / f"{name}.png" for name in figures_of(grid)}
    images = {name: path for name, path in paths.items() if path.exists()}
    if images:
        yield ResultRun(run_id(grid, "figure"), "figure", "figures", config={}, images=images)


def _sampling_run(
    grid: Grid, evaluation: Evaluation, result: CellResult, images: dict[str, np.ndarray]
) -> ResultRun:
    """Return the run of a cell: its settings, its cost and its first images."""
    return ResultRun(
        id=run_id(grid, "sample", evaluation.cell),
        job_type="sample",
        name=evaluation.cell,
        config={
            **result.model.settings,  # under the same keys as in trainings
            "model": evaluation.model,
            "sampler": {"name": evaluation.sampler, **result.sampler},
            "sampling_seed": result.seed,
            "weights_sha256": result.model.weights_sha256,
            "git_revision": result.git_revision,
            "versions": result.versions,
        },
        tags=(grid.models[evaluation.model].dataset,),
        values={
            "images": result.samples,
            "nfe": result.nfe,
            "sampling_seconds": result.sampling_seconds,
            "sampling_device": result.sampling_device,
        },
        images=images,
    )


def _evaluation_run(
    grid: Grid, e: Evaluation, result: CellResult, paper: float | None, sampling: ResultRun
) -> ResultRun:
    """Return the run of a metric: that of the sampling, and the metric under its own name."""
    values = {
        e.metric: result.value,
        "paper": paper,
        "class_accuracy": result.class_accuracy and result.class_accuracy.value,
        "floor": result.floor,
        "noise": result.noise,
    }
    return replace(
        sampling,
        id=evaluation_id(grid, e),
        job_type="evaluate",
        config=sampling.config | {"metric": grid.metrics[e.metric]},
        tags=(*sampling.tags, e.metric),
        values={k: v for k, v in values.items() if v is not None} | sampling.values,
    )


def _table_runs(grid: Grid, name: str, cells: Path) -> Iterator[ResultRun]:
    """Yield the run of a table: `table` as printed and `entries` for programs; none if empty."""
    table, rows = grid.file.tables[name], read_table(grid, name, cells)
    entries = [entry for row in rows for entry in row]
    if not any(entry.results for entry in entries):
        return
    text = text_of(table, rows)
    records = [record(grid, table, entry) for entry in entries]
    yield ResultRun(
        id=run_id(grid, "tabulate", name),
        job_type="tabulate",
        name=name,
        config={"title": text.title, "caption": text.caption, "notes": text.notes},
        values=dict(Counter(entry.status for entry in entries)),
        tables={
            "table": (text.columns, text.lines),
            "entries": (list(records[0]), [list(r.values()) for r in records]),
        },
    )
