"""The results of a grid as runs for wandb, computed from the files on disk."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from psld.data.picture import tiled
from psld.grid import paths
from psld.grid.cells import Cell, Grid
from psld.grid.entries import paper_values, read_table
from psld.grid.figures import all_figures
from psld.metrics.results import CellResult, CellResults
from psld.metrics.settings import Measurement
from psld.report.formats import csv_line
from psld.report.table import table_text
from psld.sampling.shards import Shard, shard_path
from psld.utils.files import digest_of

SIDE = 8
"""Rows and columns of the picture of a cell's first images."""


@dataclass(frozen=True)
class ResultRun:
    """One run: a metric of a cell, a table, or the grid's figures."""

    options: dict[str, Any]
    """The options of `wandb.init`: id, job_type (the command that made the result), name, config;
    tags of evaluations (dataset and metric; runs with the same tags are comparable)."""
    values: dict[str, Any] = field(default_factory=dict)
    images: dict[str, np.ndarray | Path] = field(default_factory=dict)
    """Arrays H×W×C, or PNG files."""
    tables: dict[str, tuple[list[str], list[list[Any]]]] = field(default_factory=dict)
    """Columns and lines."""

    def digest(self) -> str:
        images = {}
        for name, image in self.images.items():
            content = image.read_bytes() if isinstance(image, Path) else image.tobytes()
            images[name] = hashlib.sha256(content).hexdigest()
        return digest_of([self.options, self.values, images, self.tables])


def run_id(grid: str, job_type: str, *identity: str | int) -> str:
    """Return the id of a result's run. A changed result keeps it."""
    return f"{job_type}-{digest_of([grid, *identity])[:12]}"


def result_runs(grid: Grid) -> Iterator[ResultRun]:
    """Yield the runs of all results so far, in the order of the grid's tables."""
    papers = {
        (cell, grid.measurement(number)): printed.get("value")
        for number, printed in paper_values(grid).items()
        if not number.images
        for cell in grid.replicates(number)
    }
    for cell in grid.measured_cells:
        images = {}
        if (shard := shard_path(cell.folder, 0)).exists():
            images["samples"] = tiled(Shard.load(shard).images[: SIDE * SIDE], SIDE)
        for measurement in cell.measurements:
            if result := CellResults.find(cell.result, measurement.digest(cell.digest)):
                paper = papers.get((cell, measurement))
                yield _evaluation_run(cell, measurement, result, paper, images)
    for name in grid.file.tables:
        yield from _table_runs(grid, name)
    pictures = {name: Path(f"{paths.figure(grid.name, name)}.png") for name in all_figures(grid)}
    if images := {name: path for name, path in pictures.items() if path.exists()}:
        options = {"id": run_id(grid.name, "figure"), "job_type": "figure", "name": "figures"}
        yield ResultRun(options, images=images)


def _evaluation_run(
    cell: Cell,
    measurement: Measurement,
    result: CellResult,
    paper: float | None,
    images: dict[str, np.ndarray],
) -> ResultRun:
    """Return the run of a metric: its value under its own name, the cost, and the settings."""
    metric = measurement.metric
    config = {
        **result.model.settings,  # under the same keys as in trainings
        "model": cell.model.name,
        "sampler": {"name": cell.name.partition("/")[2], **result.sampler},
        "sampling_seed": result.seed,
        "metric": result.metric,
        "weights_sha256": result.model.weights_sha256,
        "git_revision": result.git_revision,
        "versions": result.versions,
    }
    options = {
        "id": run_id(cell.grid, "evaluate", cell.name, metric.name, measurement.samples),
        "job_type": "evaluate",
        "name": cell.name,
        "config": config,
        "tags": (cell.model.dataset, metric.name),
    }
    values = {
        metric.name: result.value,
        "paper": paper,
        "class_accuracy": result.class_accuracy and result.class_accuracy.value,
        "floor": result.floor,
        "noise": result.noise,
        "images": result.samples,
        "nfe": result.nfe,
        "sampling_seconds": result.sampling_seconds,
        "sampling_device": result.sampling_device,
    }
    return ResultRun(options, {k: v for k, v in values.items() if v is not None}, images)


def _table_runs(grid: Grid, name: str) -> Iterator[ResultRun]:
    """Yield the run of a table: `table` as printed and `entries` for programs; none if empty."""
    table, rows = grid.file.tables[name], read_table(grid, name)
    entries = [entry for row in rows for entry in row]
    if not any(entry.results for entry in entries):
        return
    text = table_text(table, rows)
    records = [csv_line(grid, table, entry) for entry in entries]
    options = {
        "id": run_id(grid.name, "tabulate", name),
        "job_type": "tabulate",
        "name": name,
        "config": {"title": text.title, "caption": text.caption, "notes": text.notes},
    }
    tables = {
        "table": (text.columns, text.lines),
        "entries": (list(records[0]), [list(line.values()) for line in records]),
    }
    yield ResultRun(options, dict(Counter(entry.status for entry in entries)), tables=tables)
