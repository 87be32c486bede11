"""The results of a grid as runs for wandb, computed from the files on disk."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from psld.data.picture import tiled
from psld.grid import paths
from psld.grid.entries import paper_values, read_table
from psld.grid.figures import all_figures
from psld.grid.records import Cell, Grid
from psld.metrics.results import CellResult, CellResults
from psld.metrics.settings import Measurement
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


def run_id(grid: str, job_type: str, *identity: str | int) -> str:
    """Return the id of a result's run. A changed result keeps it."""
    return f"{job_type}-{digest_of([grid, *identity])[:12]}"


def evaluation_id(cell: Cell, measurement: Measurement) -> str:
    return run_id(cell.grid, "evaluate", cell.name, measurement.metric.name, measurement.samples)


def result_runs(grid: Grid) -> Iterator[ResultRun]:
    """Yield the runs of all results so far, in the order of the grid's tables."""
    papers = {
        (cell, grid.measurement(number)): printed.get("value")
        for number, printed in paper_values(grid).items()
        for cell in grid.replicates(number)
    }
    for cell in grid.measured_cells:
        results = _results(cell)
        if not results:
            continue
        shard = shard_path(cell.folder, 0)
        images = {}
        if shard.exists():
            images["samples"] = tiled(Shard.load(shard).images[: SIDE * SIDE], SIDE)
        largest = max(results, key=lambda measurement: measurement.samples)
        yield _sampling_run(cell, results[largest], images)
        for measurement, result in results.items():
            paper = papers.get((cell, measurement))
            sampling = _sampling_run(cell, result, images)
            yield _evaluation_run(cell, measurement, result, paper, sampling)
    for name in grid.file.tables:
        yield from _table_runs(grid, name)
    pictures = {name: Path(f"{paths.figure(grid.name, name)}.png") for name in all_figures(grid)}
    images = {name: path for name, path in pictures.items() if path.exists()}
    if images:
        yield ResultRun(run_id(grid.name, "figure"), "figure", "figures", config={}, images=images)


def _results(cell: Cell) -> dict[Measurement, CellResult]:
    """Return the results of a cell so far."""
    path = Path(cell.result)
    if not path.exists():
        return {}
    read = CellResults.read(path)
    results = {m: read.of(m.digest(cell.digest)) for m in cell.measurements}
    return {measurement: result for measurement, result in results.items() if result}


def _sampling_run(cell: Cell, result: CellResult, images: dict[str, np.ndarray]) -> ResultRun:
    """Return the run of a cell: its settings, its cost and its first images."""
    return ResultRun(
        id=run_id(cell.grid, "sample", cell.name),
        job_type="sample",
        name=cell.name,
        config={
            **result.model.settings,  # under the same keys as in trainings
            "model": cell.model.name,
            "sampler": {"name": cell.name.partition("/")[2], **result.sampler},
            "sampling_seed": result.seed,
            "weights_sha256": result.model.weights_sha256,
            "git_revision": result.git_revision,
            "versions": result.versions,
        },
        tags=(cell.model.dataset,),
        values={
            "images": result.samples,
            "nfe": result.nfe,
            "sampling_seconds": result.sampling_seconds,
            "sampling_device": result.sampling_device,
        },
        images=images,
    )


def _evaluation_run(
    cell: Cell,
    measurement: Measurement,
    result: CellResult,
    paper: float | None,
    sampling: ResultRun,
) -> ResultRun:
    """Return the run of a metric: that of the sampling, and the metric under its own name."""
    metric = measurement.metric
    values = {
        metric.name: result.value,
        "paper": paper,
        "class_accuracy": result.class_accuracy and result.class_accuracy.value,
        "floor": result.floor,
        "noise": result.noise,
    }
    return replace(
        sampling,
        id=evaluation_id(cell, measurement),
        job_type="evaluate",
        config=sampling.config | {"metric": metric.model_dump(mode="json", exclude_none=True)},
        tags=(*sampling.tags, metric.name),
        values={k: v for k, v in values.items() if v is not None} | sampling.values,
    )


def _table_runs(grid: Grid, name: str) -> Iterator[ResultRun]:
    """Yield the run of a table: `table` as printed and `entries` for programs; none if empty."""
    table, rows = grid.file.tables[name], read_table(grid, name)
    entries = [entry for row in rows for entry in row]
    if not any(entry.results for entry in entries):
        return
    text = text_of(table, rows)
    records = [record(grid, table, entry) for entry in entries]
    yield ResultRun(
        id=run_id(grid.name, "tabulate", name),
        job_type="tabulate",
        name=name,
        config={"title": text.title, "caption": text.caption, "notes": text.notes},
        values=dict(Counter(entry.status for entry in entries)),
        tables={
            "table": (text.columns, text.lines),
            "entries": (list(records[0]), [list(r.values()) for r in records]),
        },
    )
