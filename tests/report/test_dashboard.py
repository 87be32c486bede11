"""`psld wandb dashboard`: the content of a grid's report in wandb, without a server."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from wandb_workspaces.reports import v2 as reports

from psld.grid.cells import Grid
from psld.grid.figures import all_figures
from psld.report.sync import find_report, report_blocks
from tests.commands import command, refused, run


@pytest.fixture(scope="module", params=["demo", "paper"])
def grid(request, grids) -> Grid:
    return grids[request.param]


@pytest.fixture
def panel_grids(grid) -> list[dict[str, Any]]:
    """What wandb receives of each group of panels: panels, and the runs that they show."""
    blocks = [block._to_model() for block in report_blocks(grid)]
    sent = [block.model_dump(by_alias=True, mode="json") for block in blocks]
    return [block["metadata"] for block in sent if block["type"] == "panel-grid"]


def panels_of(panel_grid: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    panels = panel_grid["panelBankSectionConfig"]["panels"]
    return [panel["config"] for panel in panels if panel["viewType"] == kind]


def filters_of(panel_grid: dict[str, Any]) -> dict[str, list[Any]]:
    """What the runs of a group must have, by the name of the property."""
    [runs] = panel_grid["runSets"]
    found: dict[str, list[Any]] = {}
    for each in runs["filters"]["filters"]:
        assert each["key"]["section"] == "run"
        assert each["op"] in ("=", "IN")
        found.setdefault(each["key"]["name"], []).append(each["value"])
    return found


def test_only_runs_of_the_grid_are_shown(grid, panel_grids):
    assert {filters_of(shown)["group"][0] for shown in panel_grids} == {grid.name}


def test_evaluations_are_sorted_by_each_metric_and_stand_against_nfe(grid, panel_grids):
    kinds = {
        (cell.model.dataset, measurement.metric.name)
        for cell in grid.measured_cells
        for measurement in cell.measurements
    }
    scatters = [shown for shown in panel_grids if panels_of(shown, "Scatter Plot")]
    assert len(scatters) == len(kinds)
    for shown in scatters:
        [dataset], [metric] = filters_of(shown)["tags"]
        kinds.remove((dataset, metric))
        assert filters_of(shown)["jobType"] == [["evaluate"]]
        [runs], [plot] = shown["runSets"], panels_of(shown, "Scatter Plot")
        assert runs["sort"]["keys"] == [
            {"key": {"section": "summary", "name": metric}, "ascending": True}
        ]
        assert (plot["xAxis"], plot["yAxis"]) == ("summary:nfe", f"summary:{metric}")


def test_trainings_have_curves_and_samples(panel_grids):
    [shown] = [s for s in panel_grids if panels_of(s, "Run History Line Plot")]
    assert filters_of(shown)["jobType"] == [["train", "train_guide"]]
    curves = [plot["metrics"] for plot in panels_of(shown, "Run History Line Plot")]
    assert curves == [["loss"], ["grad_norm"], ["learning_rate"], ["images_per_second"]]
    [media] = panels_of(shown, "Media Browser")
    assert media["mediaKeys"] == ["samples"]


def test_every_table_is_shown(grid, panel_grids):
    shown = [s for s in panel_grids if filters_of(s)["jobType"] == [["tabulate"]]]
    assert [filters_of(s)["displayName"] for s in shown] == [[name] for name in grid.file.tables]
    assert all('"table"' in json.dumps(panels_of(s, "Weave")) for s in shown)


def test_every_figure_is_shown(grid, panel_grids):
    [shown] = [s for s in panel_grids if filters_of(s)["jobType"] == [["figure"]]]
    [media] = panels_of(shown, "Media Browser")
    assert media["mediaKeys"] == list(all_figures(grid))
    samples = [f"samples/{model}" for model in grid.models]
    assert {"nfe", "gamma", "training", *samples, *grid.file.figures} < set(media["mediaKeys"])


@pytest.mark.parametrize("known", [[], ["PSLD: other"], ["PSLD: other", "PSLD: demo"]])
def test_a_report_that_exists_is_updated(known, monkeypatch):
    listed = [SimpleNamespace(display_name=title, url=f"at {title}") for title in known]
    project = SimpleNamespace(name="psld")
    api = SimpleNamespace(projects=lambda entity: [project], reports=lambda path: listed)
    monkeypatch.setattr(reports.Report, "from_url", lambda url: f"the report {url}")
    report = find_report(api, "me", "psld", "PSLD: demo")
    if "PSLD: demo" in known:
        assert report == "the report at PSLD: demo"
    else:
        assert (report.entity, report.project, report.title, report.id) == (
            *("me", "psld", "PSLD: demo", ""),
        )


def test_nobody_logged_in_is_one_line(resolved, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    dashboard = command("wandb", "dashboard", "grid_name=demo")
    refused(run(resolved, dashboard), 2, "wandb: ", "wandb login")
