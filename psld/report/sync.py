"""Upload to wandb what its server lacks: trainings, and the results of a grid.

The steps of a training come from the history in its run directory, also of one that was killed. A
result is uploaded if the server has none with its digest. wandb's public API says what the server
has, before an upload and after it. The next sync uploads what failed.
"""

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import wandb
from wandb.apis.public import Run

from psld.data.picture import tiled
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
ARRIVAL_SECONDS = 30
"""The longest time until the server shows what it received."""
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
    with sole_holder(runs / "sync.lock", "waiting for another sync"):
        uploads = Uploads()
        for file in sorted(runs.glob(f"*/{WANDB}")):
            uploads.training(file.parent)
        if grid:
            where = {"project": settings.project, "entity": settings.entity, "group": grid.name}
            for result in result_runs(grid):
                uploads.result(result, where)
    if uploads.failed:
        raise RunError(f"wandb: uploads that failed: {uploads.failed}, see above")
    has = f"{runs} and of grid {grid.name}" if grid else runs
    print(f"{uploads.made} runs uploaded; wandb has all of {has}")


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


class Uploads:
    """The uploads of one sync. Each prints a line if there was something to do."""

    def __init__(self) -> None:
        """Raises RunError if the server does not answer."""
        with errors_in_one_line():
            self.api = wandb.Api()
        self.made = self.failed = 0

    def training(self, run: Path) -> None:
        """Upload the steps that the server lacks."""
        with self._counted(str(run)), held_if_free(run / "lock") as held:
            if not held:
                print(f"{run}: left for the next sync, the training is running", flush=True)
            elif (run / HISTORY).exists():  # It may have been killed before its first checkpoint.
                last = TrainingHistory.read(run / HISTORY).entries[-1].step

                def is_whole(server: Run) -> bool:
                    return (server.history_keys or {}).get("lastStep", -1) >= last

                def log(online: wandb.Run) -> None:
                    log_new_steps(online, run)
                    online.finish(0 if is_exported(run) else 1)

                self._upload(str(run), training_options(run), is_whole, log)

    def result(self, result: ResultRun, where: dict[str, Any]) -> None:
        """Upload a result that the server lacks; `where` has more options of `wandb.init`."""
        name, digest = "{job_type} {name}".format_map(result.options), result.digest()

        def is_whole(server: Run) -> bool:
            return server.summary_metrics.get(DIGEST) == digest

        def log(online: wandb.Run) -> None:
            images = {name: wandb.Image(image) for name, image in result.images.items()}
            tables = {n: wandb.Table(*t, allow_mixed_types=True) for n, t in result.tables.items()}
            online.log({**result.values, **images, **tables, DIGEST: digest})

        with self._counted(name):
            self._upload(name, where | result.options, is_whole, log)

    @contextmanager
    def _counted(self, name: str) -> Iterator[None]:
        """Count and print a failure, and go on."""
        try:
            yield
        except PSLDError as error:
            print(f"{name}: not uploaded: {error}", flush=True)
            self.failed += 1

    def _upload(
        self,
        name: str,
        options: dict[str, Any],
        is_whole: Callable[[Run], bool],
        log: Callable[[wandb.Run], None],
    ) -> None:
        """Upload a run if the server's is not whole, and wait until it is.

        Raises RunError if it is not whole in the end.
        """
        path = (
            f"{options['entity'] or self.api.default_entity}/{options['project']}/{options['id']}"
        )

        def has_arrived() -> bool:
            self.api.flush()
            try:
                return is_whole(self.api.run(path))
            except wandb.errors.CommError:  # There is no such run.
                return False

        if has_arrived():
            return
        with online_run(**options) as online:
            log(online)
        deadline = time.monotonic() + ARRIVAL_SECONDS
        while not has_arrived():
            if time.monotonic() > deadline:
                raise RunError("the server does not show what it received")
            time.sleep(1)
        self.made += 1
        print(f"{name}: uploaded", flush=True)


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
