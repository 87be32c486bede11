"""Write the results of a grid to wandb as runs, each once.

A changed result replaces its run. Runs written offline are written again once wandb is online.
Trainings write their own runs.
"""

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import wandb

from psld.data.picture import tiled
from psld.grid.entries import paper_values, read_table
from psld.grid.figures import figures_of
from psld.grid.places import Evaluation
from psld.grid.resolved import Grid
from psld.grid.results import CellResult, read_result
from psld.report.formats import record
from psld.report.table import text_of
from psld.sampling.shards import Shard, shard_path
from psld.training.preview import SIDE
from psld.training.settings import WandbSettings
from psld.training.wandb_runs import errors_in_one_line, start_run
from psld.utils.files import digest_of, read_json, write_json

TableContent = tuple[list[str], list[list[Any]]]  # columns and lines


@dataclass(frozen=True)
class TrackedRun:
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
    def digest(self) -> str:
        images = {}
        for name, image in self.images.items():
            content = image.read_bytes() if isinstance(image, Path) else image.tobytes()
            images[name] = hashlib.sha256(content).hexdigest()
        return digest_of([self.name, self.config, self.tags, self.values, images, self.tables])


def track(runs: Iterable[TrackedRun], group: str, settings: WandbSettings, folder: Path) -> None:
    """Write the new and changed runs into `folder`, and a record of what was written."""
    file = folder / "written.json"
    written = read_json(file, dict[str, Any]) if file.exists() else {}
    online = settings.mode == "online"
    fresh = total = 0
    for run in runs:
        total += 1
        digest = digest_of([settings.project, settings.entity, run.digest])
        wanted = {"digest": digest, "online": online}
        if written.get(run.id) not in (wanted, {"digest": digest, "online": True}):
            write_run(run, group, settings, folder)
            written[run.id] = wanted
            write_json(file, written)
            fresh += 1
    wandb.teardown()  # waits until all finished runs are written
    print(f"{group}: {total} runs, of which {fresh} are new or changed, in {folder}")


def write_run(run: TrackedRun, group: str, settings: WandbSettings, folder: Path) -> None:
    """Write a run, and remove older runs of the same result."""
    for older in folder.glob(f"wandb/*run-*-{run.id}"):
        shutil.rmtree(older)
    with (
        errors_in_one_line(),
        start_run(
            settings,
            folder,
            id=run.id,
            name=run.name,
            group=group,
            job_type=run.job_type,
            config=run.config,
            tags=run.tags,
            stats=False,
        ) as started,
    ):
        images = {n: wandb.Image(image) for n, image in run.images.items()}
        tables = {n: wandb.Table(*t, allow_mixed_types=True) for n, t in run.tables.items()}
        started.log({**run.values, **images, **tables})


def run_id(grid: Grid, job_type: str, *identity: str | int) -> str:
    """Return the id of a result's run. A changed result keeps it."""
    return f"{job_type}-{digest_of([grid.name, *identity])[:12]}"


def evaluation_id(grid: Grid, evaluation: Evaluation) -> str:
    return run_id(grid, "evaluate", evaluation.cell, evaluation.metric, evaluation.samples)


def runs_of(grid: Grid, cells: Path, samples: Path, figures: Path) -> Iterator[TrackedRun]:
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
        yield TrackedRun(run_id(grid, "figure"), "figure", "figures", config={}, images=images)


def _sampling_run(
    grid: Grid, evaluation: Evaluation, result: CellResult, images: dict[str, np.ndarray]
) -> TrackedRun:
    """Return the run of a cell: its settings, its cost and its first images."""
    return TrackedRun(
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
    grid: Grid, e: Evaluation, result: CellResult, paper: float | None, sampling: TrackedRun
) -> TrackedRun:
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


def _table_runs(grid: Grid, name: str, cells: Path) -> Iterator[TrackedRun]:
    """Yield the run of a table: `table` as printed and `entries` for programs; none if empty."""
    table, rows = grid.file.tables[name], read_table(grid, name, cells)
    entries = [entry for row in rows for entry in row]
    if not any(entry.results for entry in entries):
        return
    text = text_of(table, rows)
    records = [record(grid, table, entry) for entry in entries]
    yield TrackedRun(
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
