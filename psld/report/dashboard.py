"""The dashboard of a grid: a report in wandb, which shows all results uploaded so far or later."""

from collections.abc import Iterator
from typing import Any

import wandb
import wandb_workspaces.reports.v2 as reports
from wandb_workspaces.reports.v2.interface import Block, Panel

from psld.grid.cells import Grid
from psld.grid.figures import all_figures
from psld.training.settings import WandbSettings
from psld.training.wandb_runs import check_login, errors_in_one_line

WIDTH = 24  # in units of wandb's layouts
CURVES = ("loss", "grad_norm", "learning_rate", "images_per_second")
VALUES = ("nfe", "images", "paper", "class_accuracy", "sampling_seconds")
COLUMNS = ["config:model.value", "config:sampler.value.name", *(f"summary:{v}" for v in VALUES)]
"""Columns next to the distance in the list of evaluations."""


def update_dashboard(grid: Grid, settings: WandbSettings) -> str:
    """Create or update the grid's report and return its address."""
    check_login()
    with errors_in_one_line():
        api = wandb.Api()
        entity = settings.entity or api.default_entity
        report = find_report(api, entity, settings.project, f"PSLD: {grid.name}")
        report.blocks = list(report_blocks(grid))
        report.save()
    return report.url


def find_report(api: wandb.Api, entity: str, project: str, title: str) -> reports.Report:
    """Return the report of this title, or a new one."""
    if project in {known.name for known in api.projects(entity)}:
        for known in api.reports(f"{entity}/{project}"):
            if known.display_name == title:
                return reports.Report.from_url(known.url)
    return reports.Report(project=project, entity=entity, title=title, width="fluid")


def report_blocks(grid: Grid) -> Iterator[Block]:
    yield reports.TableOfContents()
    yield reports.H1("Distances")
    yield from _distances(grid)
    yield reports.H1("Samples")
    yield _panels(grid, ["evaluate"], [_images("samples")])
    yield reports.H1("Trainings")
    yield _panels(grid, ["train", "train_guide"], [*map(_curve, CURVES), _images("samples")])
    yield reports.H1("Tables")
    for name, table in grid.file.tables.items():
        layout = reports.Layout(w=WIDTH, h=10)
        panel = reports.WeavePanelSummaryTable(table_name="table", layout=layout)
        yield reports.H2(table.title)
        yield _panels(grid, ["tabulate"], [panel], condition=f"Name = {name!r}")
    yield reports.H1("Figures")
    yield _panels(grid, ["figure"], [_images(*all_figures(grid))])


def _distances(grid: Grid) -> Iterator[Block]:
    """List and plot the evaluations of each dataset and metric."""
    kinds = {
        (cell.model.dataset, measurement.metric.name): None
        for cell in grid.measured_cells
        for measurement in cell.measurements
    }
    for dataset, metric in kinds:
        distance = reports.SummaryMetric(metric)
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
        yield _panels(
            grid,
            ["evaluate"],
            [against_nfe],
            condition=f"Tags() in {[dataset]} and Tags() in {[metric]}",
            order=[reports.OrderBy(distance, ascending=True)],
            pinned_columns=["run:displayName", f"summary:{metric}"],
            visible_columns=COLUMNS,
        )


def _panels(
    grid: Grid,
    job_types: list[str],
    panels: list[Panel],
    *,
    condition: str = "",
    **runset: Any,
) -> reports.PanelGrid:
    """Return panels of the grid's runs of these job types, narrowed down by `condition`."""
    filters = f"Group = {grid.name!r} and JobType in {job_types}"
    if condition:
        filters += f" and {condition}"
    runs = reports.Runset(name=f"{grid.name}: {job_types[0]}", filters=filters, **runset)
    return reports.PanelGrid(runsets=[runs], panels=panels)


def _curve(name: str) -> reports.LinePlot:
    layout = reports.Layout(w=WIDTH // 2, h=8)
    return reports.LinePlot(title=name, x="Step", y=[name], log_y=name == "loss", layout=layout)


def _images(*names: str) -> reports.MediaBrowser:
    layout = reports.Layout(w=WIDTH, h=10)
    return reports.MediaBrowser(media_keys=list(names), num_columns=4, layout=layout)
