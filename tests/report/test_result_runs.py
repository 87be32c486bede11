"""The results of a grid as runs of wandb, and their upload."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import wandb
from PIL import Image

from psld.evaluation.results import CellResults
from psld.grid.cells import Grid
from psld.report.sync import SIDE, ResultRun, result_runs
from psld.sampling.shards import Shard, shard_path
from tests.commands import call, succeeded
from tests.data.formats import random_images
from tests.report.conftest import MEASURED, shard_of
from tests.report.server import wandb_server
from tests.results import estimate_of, write_result

FIGURE = "results/figures/mine/samples/cld.png"


@pytest.fixture
def folder(folder, grid) -> Path:
    """Results with a figure; one result has a class accuracy, and one its shard."""
    accuracy = estimate_of(0.75, samples=100)
    write_result(folder, grid, "low/em-10", value=7.5, class_accuracy=accuracy)
    images = random_images(70, 8, 8, 1).transpose(0, 3, 1, 2)
    shard_of(images).save(shard_path(folder / "samples/mine/cld/em-10", 0))
    (folder / FIGURE).parent.mkdir(parents=True)
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(folder / FIGURE)
    return folder


def runs_by_name(grid: Grid) -> dict[tuple[str, str], ResultRun]:
    """Return the runs by job type and name."""
    every = list(result_runs(grid))
    named = {(run.options["job_type"], run.options["name"]): run for run in every}
    assert len(named) == len({run.options["id"] for run in every}) == len(every)
    return named


@pytest.fixture
def runs(folder, grid) -> dict[tuple[str, str], ResultRun]:
    return runs_by_name(grid)


def test_every_result_that_is_not_void_is_a_run(folder, grid, runs):
    tables = {("tabulate", "mine"), ("tabulate", "ode")}
    assert set(runs) == {*(("evaluate", c) for c in MEASURED), *tables, ("figure", "figures")}
    assert runs["figure", "figures"].logged.keys() == {"samples/cld"}
    write_result(folder, grid, "low/em-10", value=0.0, void="6.0% are copies")
    assert runs.keys() - runs_by_name(grid).keys() == {("evaluate", "low/em-10")}


def test_an_evaluation_has_its_metric_its_settings_and_its_first_images(folder, grid, runs):
    [result] = CellResults.read(grid.cells["cld/em-10"].result).results
    run = runs["evaluate", "cld/em-10"]
    assert run.options["tags"] == ("digits", "fd-classifier")
    samples = np.asarray(run.logged.pop("samples").image)
    assert run.logged == {
        "fd-classifier": 8.5,
        "paper": 8.0,
        "floor": result.floor,
        "noise": result.noise,
        "nfe": result.nfe,
        "images": 100,
        "sampling_seconds": result.sampling_seconds,
        "sampling_device": "CPU",
    }
    config = run.options["config"]
    assert config["process"]["kind"] == result.model.settings["process"]["kind"]
    assert (config["model"], config["sampler"]["name"]) == ("cld", "em-10")
    assert config["sampler"]["steps"] == 10
    assert config["metric"]["name"] == "fd-classifier"
    assert config["weights_sha256"] == result.model.weights_sha256
    images = Shard.load(shard_path(folder / "samples/mine/cld/em-10", 0)).images
    for index in (0, SIDE - 1, SIDE, SIDE**2 - 1):
        row, column = (4 + 68 * place for place in divmod(index, SIDE))
        enlarged = samples[row : row + 64 : 8, column : column + 64 : 8]
        assert (enlarged == images[index, 0]).all()
    guided = runs["evaluate", "low/em-10"]
    assert guided.logged["class_accuracy"] == 0.75
    assert "samples" not in guided.logged, "its shard is gone"


def test_a_table_is_uploaded_as_printed_and_with_every_entry(runs):
    run = runs["tabulate", "mine"]
    table = run.logged.pop("table")
    assert table.columns == ["sampler", "model", "20", "10", "NFE at 10"]
    assert table.data[0][:2] == ["EM", "CLD"]
    assert table.data[0][3] == "8.50 ± 0.02 (8.00, +0.50 ✗¹)"
    table = run.logged.pop("entries")
    entries = [dict(zip(table.columns, line, strict=True)) for line in table.data]
    assert [entry["cell"] for entry in entries[:2]] == ["mine/cld/em-20", "mine/cld/em-10"]
    assert [entry["ours"] for entry in entries[:4]] == [4.25, 8.5, 10, None]
    assert sum(run.logged.values()) == len(entries) == 15
    assert run.logged["not run"] == 4


def test_results_are_uploaded_and_replace_those_of_an_earlier_sync(folder, grid):
    for cell in MEASURED.keys() - {"cld/em-10", "low/em-10"}:
        (folder / grid.cells[cell].result).unlink()
    runs = runs_by_name(grid)
    assert {kind for kind, _ in runs} == {"evaluate", "tabulate", "figure"}
    with wandb_server() as server:

        def sync() -> list[str]:
            finished = succeeded(call(folder, "wandb", "sync", "grid_name=mine"))
            *lines, last = finished.stdout.splitlines()
            assert last == f"{len(lines)} runs of runs and of grid mine uploaded"
            return lines

        assert len(sync()) == len(runs) == len(server.runs) == 4
        for run in runs.values():
            online = server.runs[run.options["id"]]
            named = {"displayName": "name", "jobType": "job_type", "tags": "tags"}
            for theirs, ours in named.items():
                assert online.options.get(theirs) == json_of(run.options.get(ours)), theirs
            assert online.options["groupName"] == "mine"
            for name, value in run.options.get("config", {}).items():
                assert online.config.get(name, {}) == json_of(value), name  # wandb drops {}
            for name, logged in run.logged.items():
                if isinstance(logged, wandb.Image):
                    assert online.logged_file(name).startswith(b"\x89PNG")
                elif isinstance(logged, wandb.Table):
                    uploaded = json.loads(online.logged_file(name))
                    assert (uploaded["columns"], uploaded["data"]) == (logged.columns, logged.data)
                else:
                    assert online.summary[name] == logged
        figures = server.runs[runs["figure", "figures"].options["id"]]
        assert figures.logged_file("samples/cld") == (folder / FIGURE).read_bytes()

        write_result(folder, grid, "cld/em-10", value=0.5)
        assert "evaluate cld/em-10: uploaded" in sync()
        assert len(server.runs) == len(runs)
        changed = server.runs[runs["evaluate", "cld/em-10"].options["id"]]
        assert changed.summary["fd-classifier"] == 0.5
        assert changed.steps == [0], "the new row replaces the old one"


def json_of(content: object) -> object:
    """Return the content after a conversion to JSON and back."""
    return json.loads(json.dumps(content))


def test_without_results_there_are_no_runs(tmp_path, grid, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert runs_by_name(grid) == {}


def test_each_metric_of_a_cell_has_its_own_picture_object(folder, grid, monkeypatch):
    """wandb refuses a picture object that another run has."""
    cell = grid.cells["cld/em-10"]
    twice = replace(cell, measurements=cell.measurements * 2)
    monkeypatch.setattr(type(grid), "measured_cells", [twice])
    one, two = [run.logged["samples"] for run in list(result_runs(grid))[:2]]
    assert one is not two
