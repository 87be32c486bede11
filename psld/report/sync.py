"""Upload trainings and results to wandb, and update the report that shows them.

The logged steps of a training are read from the history in its run directory, also if the training
was killed. Only steps that are missing in wandb are uploaded. A result replaces the result that an
earlier sync uploaded.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import wandb
import wandb_workspaces.reports.v2 as reports
from wandb_workspaces.reports.v2.interface import Layout, OrderBy, PanelGrid, Report, Runset

from psld.data.images import tiled
from psld.evaluation.results import CellResults, ModelResult
from psld.grid.cells import Cell, Grid
from psld.grid.figures import all_figures
from psld.grid.rows import csv_line, paper_values, read_table
from psld.report.figures import read_pictures
from psld.report.table import table_text
from psld.sampling.shards import shard_path
from psld.training.files import HISTORY, WANDB, TrainingHistory, is_exported
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
"""The time limit for finishing an upload. The limit at the end of a training is shorter, because a
training must not wait long for wandb."""
SIDE = 8
WIDE = {"w": 24, "h": 10}
CURVES = ("loss", "grad_norm", "learning_rate", "images_per_second")
VALUES = ("nfe", "images", "paper", "class_accuracy", "sampling_seconds")
"""The numbers that the dashboard lists for each evaluation, in addition to the distance."""


def sync(runs: Path, grid: Grid | None, settings: WandbSettings) -> None:
    """Upload the trainings below `runs`, and the results of `grid`.

    Raises UserError if no user is logged in. If an upload fails, the other uploads continue, and
    RunError is raised at the end.
    """
    os.environ.setdefault("WANDB_FINISH_TIMEOUT", FINISH_SECONDS)
    check_login()
    made = failed = 0
    where = f"{runs} and of grid {grid.name}" if grid else runs
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
        raise RunError(f"wandb: {failed} uploads failed; the reasons are above")
    print(f"{made} runs of {where} uploaded")


class ResultRun(NamedTuple):
    """A run in wandb that holds a metric of a cell, a table, or the figures of the grid."""

    options: dict[str, Any]
    """Options of `wandb.init`; `job_type` is the command that made the result."""
    logged: dict[str, Any]
    """Numbers, texts, images and tables, keyed by name."""


def _uploads(
    runs: Path, grid: Grid | None, settings: WandbSettings
) -> Iterator[tuple[str, Callable[[], bool]]]:
    """Yield the name of each run and its upload, which returns False if there is nothing to do."""
    for file in sorted(runs.glob(f"*/{WANDB}")):
        yield str(file.parent), partial(_upload_training, file.parent)
    if grid:
        where = {"project": settings.project, "entity": settings.entity, "group": grid.name}
        for options, logged in result_runs(grid):
            name = "{job_type} {name}".format_map(options)
            yield name, partial(_upload_result, where | options, logged)


def _upload_training(run: Path) -> bool:
    with held_if_free(run / "lock") as held:
        if not held:
            print(f"{run}: left for the next sync, because the training is running", flush=True)
        # A training that was killed before its first checkpoint has no history to upload.
        if not held or not (run / HISTORY).exists():
            return False
        TrainingHistory.read(run / HISTORY)  # raises for a damaged history before a run is opened
        with online_run(**training_options(run)) as online:
            log_new_steps(online, run)
            online.finish(0 if is_exported(run) else 1)
    return True


def _upload_result(options: dict[str, Any], logged: dict[str, Any]) -> bool:
    with online_run(**options) as online:
        online.log(logged)
    return True


# -- the results of a grid as runs -----------------------------------------------------------------


def _named(grid: str, job_type: str, name: str, *identity: str | int) -> dict[str, Any]:
    """Return the options of a result's run.

    The run id does not depend on the values of the result, so a new upload replaces an old upload.
    """
    run_id = f"{job_type}-{digest_of([grid, *identity])[:12]}"
    return {"id": run_id, "job_type": job_type, "name": name}


def result_runs(grid: Grid) -> Iterator[ResultRun]:
    """Yield the runs of all results, in the order of the grid's tables."""
    papers = paper_values(grid)
    for cell in grid.measured_cells:
        sheet = None
        if shard_path(cell.folder, 0).exists():
            sheet = tiled(read_pictures(cell).images[: SIDE * SIDE], SIDE)
        for measurement in cell.measurements:
            result = CellResults.find(cell.result, cell.record_of(measurement))
            if result and not result.void:
                paper = papers.get((cell, measurement), {}).get("value")
                # A wandb.Image can be logged in only one run, so create a new object each time.
                images = {} if sheet is None else {"samples": wandb.Image(sheet)}
                yield _evaluation_run(cell, result, paper, images)
    for name in grid.file.tables:
        yield from _table_runs(grid, name)
    pictures = {name: Path(f"{grid.figure(name)}.png") for name in all_figures(grid)}
    if images := {n: wandb.Image(path) for n, path in pictures.items() if path.exists()}:
        yield ResultRun(_named(grid.name, "figure", "figures"), images)


def _evaluation_run(
    cell: Cell, result: ModelResult, paper: float | None, images: dict[str, wandb.Image]
) -> ResultRun:
    """Return the run of a metric.

    The run holds the value (under the name of the metric), the costs and the settings.
    """
    metric = result.metric["name"]
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
    options = _named(cell.grid, "evaluate", cell.name, cell.name, metric, result.samples) | {
        "config": config,
        "tags": (cell.model.dataset, metric),  # runs with the same tags are comparable
    }
    costs = {"nfe", "sampling_seconds", "sampling_device"}
    values = {
        metric: result.value,
        "paper": paper,
        "class_accuracy": result.class_accuracy and result.class_accuracy.value,
        "images": result.samples,
        **result.model_dump(include={"floor", "noise"} | costs),
    }
    return ResultRun(options, {k: v for k, v in values.items() if v is not None} | images)


def _table_runs(grid: Grid, name: str) -> Iterator[ResultRun]:
    """Yield the run of a table if the table has results.

    The run holds the printed table as `table`, and the same numbers for programs as `entries`.
    """
    table, rows = grid.file.tables[name], read_table(grid, name)
    entries = [entry for row in rows for entry in row]
    if not any(entry.results for entry in entries):
        return
    text = table_text(table, rows)
    records = [csv_line(table, entry) for entry in entries]
    config = {"title": text.title, "caption": text.caption, "notes": text.notes + text.alone}
    contents: dict[str, tuple[Any, Any]] = {
        "table": (text.columns, text.lines),
        "entries": (list(records[0]), [list(line.values()) for line in records]),
    }
    tables = {n: wandb.Table(*each, allow_mixed_types=True) for n, each in contents.items()}
    options = _named(grid.name, "tabulate", name, name) | {"config": config}
    yield ResultRun(options, {**Counter(entry.status for entry in entries), **tables})


# -- the dashboard ---------------------------------------------------------------------------------


def update_dashboard(grid: Grid, settings: WandbSettings) -> str:
    check_login()
    with errors_in_one_line():
        api = wandb.Api()
        entity = settings.entity or api.default_entity or ""
        report = find_report(api, entity, settings.project, f"PSLD: {grid.name}")
        report.blocks = list(report_blocks(grid))
        report.save()
    return report.url


def find_report(api: wandb.Api, entity: str, project: str, title: str) -> Report:
    if project in {known.name for known in api.projects(entity)}:
        for known in api.reports(f"{entity}/{project}"):
            if known.display_name == title:
                return cast(Report, Report.from_url(cast(str, known.url)))
    return Report(project=project, entity=entity, title=title, width="fluid")


def report_blocks(grid: Grid) -> Iterator[Any]:
    """Yield the blocks of the report. The report also shows results that are uploaded later."""
    yield reports.TableOfContents()
    yield reports.H1("Distances")
    yield from _distances(grid)
    yield reports.H1("Samples")
    yield _panels(grid, ["evaluate"], [_images("samples")])
    yield reports.H1("Trainings")
    yield _panels(grid, ["train", "train_guide"], [*map(_curve, CURVES), _images("samples")])
    yield reports.H1("Tables")
    for name, table in grid.file.tables.items():
        panel = reports.WeavePanelSummaryTable(table_name="table", layout=Layout(**WIDE))
        yield reports.H2(table.title)
        yield _panels(grid, ["tabulate"], [panel], condition=f"Name = {name!r}")
    yield reports.H1("Figures")
    yield _panels(grid, ["figure"], [_images(*all_figures(grid))])


def _distances(grid: Grid) -> Iterator[Any]:
    kinds = {
        (cell.model.dataset, measurement.metric.name): None
        for cell in grid.measured_cells
        for measurement in cell.measurements
    }
    columns = ["config:model.value", "config:sampler.value.name"]
    columns += [f"summary:{value}" for value in VALUES]
    for dataset, metric in kinds:
        distance = reports.SummaryMetric(metric)
        against_nfe = reports.ScatterPlot(
            title=f"{metric} against network evaluations",
            x=reports.SummaryMetric("nfe"),
            y=distance,
            log_x=True,
            log_y=True,
            legend_template="${run:displayName}",
            layout=Layout(**WIDE),
        )
        yield reports.H2(f"{dataset}: {metric}")
        # The x axis is logarithmic, so distances at 0 evaluations are shown only in the tables.
        condition = f"Tags() in {[dataset]} and Tags() in {[metric]} and SummaryMetric('nfe') >= 1"
        yield _panels(
            grid,
            ["evaluate"],
            [against_nfe],
            condition=condition,
            order=[OrderBy(distance, ascending=True)],
            pinned_columns=["run:displayName", f"summary:{metric}"],
            visible_columns=columns,
        )


def _panels(
    grid: Grid, job_types: list[str], panels: list[Any], condition: str = "", **runset: Any
) -> PanelGrid:
    """Return panels of the grid's runs that have one of these job types and meet `condition`."""
    conditions = [f"Group = {grid.name!r}", f"JobType in {job_types}", condition]
    filters = " and ".join(filter(None, conditions))
    runs = Runset(name=f"{grid.name}: {job_types[0]}", filters=filters, **runset)
    return reports.PanelGrid(runsets=[runs], panels=panels)


def _curve(name: str) -> reports.LinePlot:
    half = Layout(w=12, h=8)
    return reports.LinePlot(title=name, x="Step", y=[name], log_y=name == "loss", layout=half)


def _images(*names: str) -> reports.MediaBrowser:
    return reports.MediaBrowser(media_keys=list(names), num_columns=4, layout=Layout(**WIDE))
