"""Dashboard: create or update a grid's report in wandb.

    psld dashboard grid_name=demo wandb.entity=me

It shows whatever lies in the project then and later; `make sync` brings it there. Needs a login
(`wandb login`, or WANDB_API_KEY).
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import wandb
import wandb_workspaces.reports.v2 as reports
from wandb_workspaces.reports.v2.interface import Block, Panel

from psld.commands.entry import CONFIGS, entry_point
from psld.report.style import model_looks
from psld.utils.files import read_json
from psld.grid.loading import Grid, load_grid
from psld.grid.schema import Evaluation
from psld.config.settings import Settings
from psld.report.tracking import evaluation_id, picture_names
from psld.training.wandb_runs import errors_in_one_line, known_training_id
from psld.training.settings import WandbSettings

WIDTH = 24
"""Of the report, in the units of layouts."""

CURVES = ("loss", "grad_norm", "learning_rate", "images_per_second")
"""What trainings log of each step."""

COLUMNS = [
    "config:model.value",
    "config:sampler.value.name",
    "summary:nfe",
    "summary:images",
    "summary:paper",
    "summary:class_accuracy",
    "summary:sampling_seconds",
]
"""What the table of evaluations shows beside the distance."""


class DashboardSettings(Settings):
    """Settings of `psld dashboard`."""

    grid_name: str
    """Name of the grid, configs/grid/NAME.yaml."""
    models: Path
    """Folder of its models; the trainings of those that are there are known by their colours."""
    wandb: WandbSettings


@entry_point("dashboard", DashboardSettings)
def main(settings: DashboardSettings) -> None:
    grid = load_grid(settings.grid_name, CONFIGS)
    os.environ.setdefault("WANDB_SILENT", "true")
    with errors_in_one_line():
        api = wandb.Api()
        report = report_of(api, settings.wandb.entity or api.default_entity, settings)
        report.blocks = blocks_of(grid, settings.models)
        report.save()
    print(report.url)


def report_of(api: wandb.Api, entity: str, settings: DashboardSettings) -> reports.Report:
    """The grid's report as it is in wandb, or a new one."""
    project, title = settings.wandb.project, title_of(settings.grid_name)
    if project in {known.name for known in api.projects(entity)}:
        for known in api.reports(f"{entity}/{project}"):
            if known.display_name == title:
                return reports.Report.from_url(known.url)
    return reports.Report(project=project, entity=entity, title=title, width="fluid")


def title_of(grid_name: str) -> str:
    return f"PSLD: {grid_name}"


def blocks_of(grid: Grid, models: Path) -> list[Block]:
    """Distances, samples, trainings, tables and pictures: what the report shows of a grid."""
    return [
        reports.TableOfContents(),
        reports.H1("Distances"),
        *distances(grid),
        reports.H1("Samples"),
        panels(runs_of(grid, "evaluate"), media("samples")),
        reports.H1("Trainings"),
        panels(
            runs_of(grid, "train", "train_guide"),
            *(curve(name) for name in CURVES),
            media("samples"),
            colours=colours_of_trainings(grid, models),
        ),
        reports.H1("Tables"),
        *tables(grid),
        reports.H1("Pictures"),
        panels(runs_of(grid, "plot"), media(*picture_names(grid))),
    ]


def distances(grid: Grid) -> Iterator[Block]:
    """For each metric on each dataset, the evaluations sorted by it, and it against NFE.

    A model has the colour that it has in all pictures of the grid.
    """
    looks = model_looks(grid)
    kinds: dict[tuple[str, str], list[Evaluation]] = {}
    for e in grid.evaluations:
        kinds.setdefault((grid.models[e.model].dataset, e.metric), []).append(e)
    for (dataset, metric), evaluations in kinds.items():
        distance = reports.SummaryMetric(metric)
        runs = runs_of(
            grid,
            "evaluate",
            also=f"Tags() in ['{dataset}'] and Tags() in ['{metric}']",
            order=[reports.OrderBy(distance, ascending=True)],
            pinned_columns=["run:displayName", f"summary:{metric}"],
            visible_columns=COLUMNS,
        )
        against_nfe = reports.ScatterPlot(
            title=f"{metric} against network evaluations",
            x=reports.SummaryMetric("nfe"),
            y=distance,
            log_x=True,
            log_y=True,
            legend_template="${run:displayName}",
            layout=reports.Layout(w=WIDTH, h=10),
        )
        yield reports.H2(f"{dataset}: {metric}")
        colours = {evaluation_id(grid, e): looks[e.model].colour for e in evaluations}
        yield panels(runs, against_nfe, colours=colours)


def colours_of_trainings(grid: Grid, models: Path) -> dict[str, str]:
    """The colour of each training whose model is there, by the id of its run."""
    colours = {}
    for model, look in model_looks(grid).items():
        manifest = models / model / "manifest.json"
        run = read_json(manifest)["run"] if manifest.exists() else None
        if run and (known := known_training_id(Path(run))):
            colours[known] = look.colour
    return colours


def tables(grid: Grid) -> Iterator[Block]:
    for name, table in grid.file.tables.items():
        yield reports.H2(table.title)
        panel = reports.WeavePanelSummaryTable(
            table_name="table", layout=reports.Layout(w=WIDTH, h=10)
        )
        yield panels(runs_of(grid, "tabulate", also=f"Name = '{name}'"), panel)


def runs_of(grid: Grid, *job_types: str, also: str = "", **given: Any) -> reports.Runset:
    """The runs of some stages of the grid; `also` narrows them down."""
    listed = ", ".join(f"'{job_type}'" for job_type in job_types)
    filters = f"Group = '{grid.name}' and JobType in [{listed}]" + (also and f" and {also}")
    return reports.Runset(name=f"{grid.name}: {job_types[0]}", filters=filters, **given)


def panels(
    runs: reports.Runset, *shown: Panel, colours: dict[str, str] | None = None
) -> reports.PanelGrid:
    """Panels of the same runs; `colours` gives some of them theirs, by their ids."""
    return reports.PanelGrid(runsets=[runs], panels=list(shown), custom_run_colors=colours or {})


def curve(name: str) -> reports.LinePlot:
    return reports.LinePlot(
        title=name,
        x="Step",
        y=[name],
        log_y=name == "loss",
        layout=reports.Layout(w=WIDTH // 2, h=8),
    )


def media(*names: str) -> reports.MediaBrowser:
    return reports.MediaBrowser(
        media_keys=list(names), num_columns=4, layout=reports.Layout(w=WIDTH, h=10)
    )


if __name__ == "__main__":
    main()
