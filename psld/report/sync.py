"""Upload to wandb what its server lacks: trainings, and the results of a grid.

The steps of a training come from the history in its run directory, also of one that was killed. A
result is uploaded if the server has none with its digest. wandb's public API says what the server
has. The next sync uploads what failed or did not arrive.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import wandb
from wandb.apis.public import Run

from psld.data.images import tiled
from psld.grid import paths
from psld.grid.cells import Cell, Grid
from psld.grid.figures import all_figures
from psld.grid.rows import paper_values, read_table
from psld.metrics.results import CellResult, CellResults
from psld.metrics.settings import Measurement
from psld.report.formats import csv_line
from psld.report.table import table_text
from psld.sampling.shards import Shard, shard_path
from psld.training.manifest import HISTORY, WANDB, TrainingHistory, is_exported
from psld.training.settings import WandbSettings
from psld.training.wandb_runs import (
    check_login,
    errors_in_one_line,
    log_new_steps,
    online_run,
    training_options,
)
from psld.utils.errors import PSLDError, RunError
from psld.utils.files import digest_of
from psld.utils.locks import held_if_free, sole_holder

FINISH_SECONDS = "300"
"""Nothing waits for a sync, so an upload may take longer than at the end of a training."""
DIGEST = "digest"
"""The name of a result's digest in its run."""
SIDE = 8
"""Rows and columns of the picture of a cell's first images."""


def sync(runs: Path, grid: Grid | None, settings: WandbSettings) -> None:
    """Upload the trainings in the run directories `runs`, and the results of `grid`.

    Raises UserError if nobody is logged in, and RunError if uploads failed; the others are made.
    """
    os.environ.setdefault("WANDB_FINISH_TIMEOUT", FINISH_SECONDS)
    check_login()
    made = failed = 0
    with sole_holder(runs / "sync.lock", "waiting for another sync"):
        for name, upload in _uploads(runs, grid, settings):
            try:
                if upload():
                    print(f"{name}: uploaded", flush=True)
                    made += 1
            except PSLDError as error:
                print(f"{name}: not uploaded: {error}", flush=True)
                failed += 1
    if failed:
        raise RunError(f"wandb: uploads that failed: {failed}, see above")
    if made:
        print(f"{made} runs uploaded; sync again to check that they arrived")
    else:
        print(f"wandb has all of {runs}{f' and of grid {grid.name}' if grid else ''}")


@dataclass(frozen=True)
class ResultRun:
    """One run: a metric of a cell, a table, or the grid's figures."""

    options: dict[str, Any]
    """Of `wandb.init`: id, job_type (the command that made the result), name, config, tags."""
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


def _uploads(
    runs: Path, grid: Grid | None, settings: WandbSettings
) -> Iterator[tuple[str, Callable[[], bool]]]:
    """Yield the name of each run and its upload, which returns False if nothing was to do.

    Raises RunError if the server does not answer.
    """
    with errors_in_one_line():
        api = wandb.Api()
    for file in sorted(runs.glob(f"*/{WANDB}")):
        yield str(file.parent), partial(_upload_training, api, file.parent)
    if grid:
        where = {"project": settings.project, "entity": settings.entity, "group": grid.name}
        for result in result_runs(grid):
            name = "{job_type} {name}".format_map(result.options)
            yield name, partial(_upload_result, api, result, where | result.options)


def _upload_training(api: wandb.Api, run: Path) -> bool:
    """Upload the steps that the server lacks."""
    with held_if_free(run / "lock") as held:
        if not held:
            print(f"{run}: left for the next sync, the training is running", flush=True)
        # It may have been killed before its first checkpoint.
        if not held or not (run / HISTORY).exists():
            return False
        last, options = TrainingHistory.read(run / HISTORY).entries[-1].step, training_options(run)
        server = _on_server(api, options)
        if server and (server.history_keys or {}).get("lastStep", -1) >= last:
            return False
        with online_run(**options) as online:
            log_new_steps(online, run)
            online.finish(0 if is_exported(run) else 1)
    return True


def _upload_result(api: wandb.Api, result: ResultRun, options: dict[str, Any]) -> bool:
    """Upload a result that the server lacks."""
    server, digest = _on_server(api, options), result.digest()
    if server and server.summary_metrics.get(DIGEST) == digest:
        return False
    images = {name: wandb.Image(image) for name, image in result.images.items()}
    tables = {n: wandb.Table(*t, allow_mixed_types=True) for n, t in result.tables.items()}
    with online_run(**options) as online:
        online.log({**result.values, **images, **tables, DIGEST: digest})
    return True


def _on_server(api: wandb.Api, options: dict[str, Any]) -> Run | None:
    """Return the server's run with these options of `wandb.init`, or None."""
    entity = options["entity"] or api.default_entity
    try:
        return api.run(f"{entity}/{options['project']}/{options['id']}")
    except wandb.errors.CommError:
        return None


# -- the results of a grid as runs -----------------------------------------------------------------


def run_id(grid: str, job_type: str, *identity: str | int) -> str:
    """Return the id of a result's run, which a changed result keeps."""
    return f"{job_type}-{digest_of([grid, *identity])[:12]}"


def result_runs(grid: Grid) -> Iterator[ResultRun]:
    """Yield the runs of all results so far, in the order of the grid's tables."""
    papers = paper_values(grid)
    for cell in grid.measured_cells:
        images = {}
        if (shard := shard_path(cell.folder, 0)).exists():
            images["samples"] = tiled(Shard.load(shard).images[: SIDE * SIDE], SIDE)
        for measurement in cell.measurements:
            if result := CellResults.find(cell.result, measurement.digest(cell.digest)):
                paper = papers.get((cell, measurement), {}).get("value")
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
        "tags": (cell.model.dataset, metric.name),  # runs with the same tags are comparable
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
    records = [csv_line(table, entry) for entry in entries]
    options = {
        "id": run_id(grid.name, "tabulate", name),
        "job_type": "tabulate",
        "name": name,
        "config": {"title": text.title, "caption": text.caption, "notes": text.notes + text.alone},
    }
    tables = {
        "table": (text.columns, text.lines),
        "entries": (list(records[0]), [list(line.values()) for line in records]),
    }
    yield ResultRun(options, dict(Counter(entry.status for entry in entries)), tables=tables)
