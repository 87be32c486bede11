"""`psld wandb dashboard`: the content of a grid's report in wandb, without a server."""

from types import SimpleNamespace
from typing import Any

import pytest
from wandb_workspaces.reports import v2 as reports

from psld.grid.cells import Grid
from psld.grid.figures import all_figures
from psld.report.sync import find_report, report_blocks


@pytest.fixture(scope="module")
def grid(grids) -> Grid:
    """A grid with several datasets and metrics."""
    return grids["paper"]


@pytest.fixture
def panel_grids(grid) -> list[dict[str, Any]]:
    """Return the panels that wandb receives for each group, and the runs that the panels show."""
    blocks = [block._to_model() for block in report_blocks(grid)]
    sent = [block.model_dump(by_alias=True, mode="json") for block in blocks]
    return [block["metadata"] for block in sent if block["type"] == "panel-grid"]


def panels_of(panel_grid: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    panels = panel_grid["panelBankSectionConfig"]["panels"]
    return [panel["config"] for panel in panels if panel["viewType"] == kind]


def filters_of(panel_grid: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the values that the runs of a group must have, keyed by property."""
    [runs] = panel_grid["runSets"]
    found: dict[str, list[Any]] = {}
    for each in runs["filters"]["filters"]:
        section, op = each["key"]["section"], each["op"]
        assert (section, op) == ("summary", ">=") or (section == "run" and op in ("=", "IN"))
        found.setdefault(each["key"]["name"], []).append(each["value"])
    return found


def test_evaluations_are_sorted_and_plotted_against_nfe_for_each_metric(grid, panel_grids):
    kinds = {(c.model.dataset, m.metric.name) for c in grid.measured_cells for m in c.measurements}
    scatters = [shown for shown in panel_grids if panels_of(shown, "Scatter Plot")]
    assert {tuple(name for [name] in filters_of(shown)["tags"]) for shown in scatters} == kinds
    for shown in scatters:
        [runs], [plot] = shown["runSets"], panels_of(shown, "Scatter Plot")
        metric = {"section": "summary", "name": filters_of(shown)["tags"][1][0]}
        assert runs["sort"]["keys"] == [{"key": metric, "ascending": True}]
        assert (plot["xAxis"], plot["yAxis"]) == ("summary:nfe", f"summary:{metric['name']}")
        assert plot["xAxisLogScale"]
        assert filters_of(shown)["nfe"] == [1], "at least one evaluation"


def test_the_report_shows_all_trainings_tables_and_figures_of_only_this_grid(grid, panel_grids):
    assert {filters_of(shown)["group"][0] for shown in panel_grids} == {grid.name}
    by_job: dict[str, list[dict[str, Any]]] = {}
    for shown in panel_grids:
        by_job.setdefault(filters_of(shown)["jobType"][0][0], []).append(shown)
    [trainings], [figures] = by_job["train"], by_job["figure"]
    assert panels_of(trainings, "Run History Line Plot")[0]["metrics"] == ["loss"]
    assert panels_of(trainings, "Media Browser")[0]["mediaKeys"] == ["samples"]
    tables = [filters_of(shown)["displayName"][0] for shown in by_job["tabulate"]]
    assert tables == list(grid.file.tables)
    assert panels_of(figures, "Media Browser")[0]["mediaKeys"] == list(all_figures(grid))


@pytest.mark.parametrize("known", [["PSLD: other"], ["PSLD: other", "PSLD: demo"]])
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
