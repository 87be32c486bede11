"""The results of a grid as runs of wandb, and their upload: each once, and again if it changed."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from psld.config.settings import write_record
from psld.grid.loading import load_grid
from psld.grid.results import CellResult, CellResults
from psld.report.result_runs import SIDE, ResultRun, result_runs
from psld.sampling.shards import Shard
from tests.commands import call, refused, succeeded
from tests.report.server import wandb_server
from tests.results import estimate_of, link_grid, made_with, write_grid

GRID = yaml.safe_load("""
defaults: [dataset=digits, network=demo, training=demo]
metric: fd-classifier
samples: 20
shard_size: 20
batch_size: 20
gallery: em-3
models:
  psld: [process=psld]
  cld: [process=cld]
samplers:
  em: {overrides: [sampler=em], budget: sampler.steps}
tables:
  mine:
    title: Mine
    headings: [model]
    cell: {sampler: em}
    columns: [{label: "3", budget: 3}, {label: "5", budget: 5}]
    rows:
      - {label: [PSLD], model: psld, paper: [2.5, null]}
      - {label: [CLD], model: cld}
  empty:
    title: Nothing of it has been run
    headings: [model]
    cell: {sampler: em, budget: 9}
    columns: [{label: distance}]
    rows: [{label: [PSLD], model: psld}]
""")

RESULT = "results/cells/mine/psld/em-3.json"
GUIDED = "results/cells/mine/cld/em-3.json"


@pytest.fixture(scope="module")
def results(digits, model, features, tmp_path_factory) -> Path:
    """A cell that was sampled and evaluated, one with a class accuracy, and a figure."""
    folder = tmp_path_factory.mktemp("results")
    sampler = ("sampler=em", "sampler.steps=3", f"model={model}", "shard_size=20")
    succeeded(call(folder, "sample", *sampler, "output=samples/mine/psld/em-3"))
    metric = (
        "metric.extractor.steps=20",
        f"extractor={features}",
        f"reference={features / 'reference'}",
    )
    cell = ("shards=samples/mine/psld/em-3", "samples=20", f"output={RESULT}")
    succeeded(call(folder, "evaluate", *sampler, *metric, *cell))
    figure = folder / "results/figures/mine/samples/psld.png"
    figure.parent.mkdir(parents=True)
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(figure)
    grid = write_grid(folder, GRID)
    measured = result_of(folder).model_dump()
    write_result(folder / RESULT, measured | made_with(grid, "psld/em-3"))
    guided = made_with(grid, "cld/em-3") | {"class_accuracy": estimate_of(0.75, samples=20)}
    write_result(folder / GUIDED, measured | guided)
    return folder


def result_of(folder: Path) -> CellResult:
    [result] = CellResults.read(folder / RESULT).results
    return result


def write_result(path: Path, content: dict[str, Any]) -> None:
    write_record(path, CellResults(results=(CellResult(**content),)))


@pytest.fixture
def folder(results, tmp_path) -> Path:
    """A copy of it."""
    folder = tmp_path / "project"
    ignored = shutil.ignore_patterns("configs", ".cache")
    shutil.copytree(results, folder, symlinks=True, ignore=ignored)
    link_grid(results, folder)
    return folder


def runs(folder: Path) -> dict[tuple[str, str], ResultRun]:
    """The runs by job type and name."""
    with contextlib.chdir(folder):
        places = (
            Path(f"{place}/mine") for place in ("results/cells", "samples", "results/figures")
        )
        found = list(result_runs(load_grid("mine"), *places))
    named = {(run.job_type, run.name): run for run in found}
    assert len(named) == len({run.id for run in found}) == len(found)
    return named


CELLS = [(stage, f"{model}/em-3") for stage in ("sample", "evaluate") for model in ("psld", "cld")]


def test_an_evaluation_has_its_metric_and_settings(results):
    result, found = result_of(results), runs(results)
    assert set(found) == {*CELLS, ("tabulate", "mine"), ("figure", "figures")}
    run, guided = (found["evaluate", f"{model}/em-3"] for model in ("psld", "cld"))
    assert run.tags == ("digits", "fd-classifier")
    for name, value in {
        "fd-classifier": result.value,
        "paper": 2.5,
        "nfe": result.nfe,
        "images": 20,
        "sampling_seconds": result.sampling_seconds,
        "noise": result.noise,
    }.items():
        assert run.values[name] == value, name
    assert "class_accuracy" not in run.values
    assert run.config["process"]["gamma"] == 0.01
    assert run.config["model"] == "psld"
    assert run.config["sampler"]["name"] == "em-3"
    assert run.config["sampler"]["steps"] == 3
    assert run.config["metric"]["name"] == "fd-classifier"
    assert run.config["weights_sha256"] == result.model.weights_sha256
    assert guided.values["class_accuracy"] == 0.75
    assert guided.images == {}, "its shard is gone"


@pytest.mark.parametrize("stage", ["sample", "evaluate"])
def test_a_cell_shows_its_first_images(results, stage):
    shown = runs(results)[stage, "psld/em-3"].images["samples"]
    images = Shard.load(results / "samples/mine/psld/em-3/00000.h5").images
    for index in (0, SIDE - 1, SIDE):
        row, column = (1 + 9 * place for place in divmod(index, SIDE))
        assert (shown[row : row + 8, column : column + 8, 0] == images[index, 0]).all()


def test_a_table_is_there_as_it_is_printed_and_with_every_entry(results):
    run, value = runs(results)["tabulate", "mine"], result_of(results).value
    columns, lines = run.tables["table"]
    assert columns == ["model", "3", "5"]
    model, shown, missing = lines[0]
    assert (model, missing) == ("PSLD", "–")
    assert shown.startswith(f"{value:.2f} ± ")
    assert shown.endswith(f" (2.50, {value - 2.5:+.2f})")
    columns, lines = run.tables["entries"]
    records = [dict(zip(columns, line, strict=True)) for line in lines]
    assert [record["cell"] for record in records] == [
        *("mine/psld/em-3", "mine/psld/em-5", "mine/cld/em-3", "mine/cld/em-5")
    ]
    assert records[0]["ours"] == pytest.approx(value)
    assert records[1]["ours"] is None
    assert run.values == {"measured": 2, "not run": 2}


def test_before_anything_ran_there_is_nothing(folder):
    shutil.rmtree(folder / "results")
    assert runs(folder) == {}


def test_results_are_uploaded_once_and_again_if_they_changed(folder):
    found = {run.id: run for run in runs(folder).values()}
    with wandb_server() as server:

        def sync() -> list[str]:
            *lines, last = succeeded(
                call(folder, "wandb", "sync", "grid_name=mine")
            ).stdout.splitlines()
            assert last.startswith(f"{len(lines)} runs uploaded")
            return lines

        assert len(sync()) == 6
        assert server.runs.keys() == found.keys()
        for name, run in found.items():
            online = server.runs[name]
            assert run.values.items() <= online.summary.items()
            assert run.config.items() <= online.config.items()
            assert tuple(online.options.get("tags", ())) == run.tags
            named = (online.options[key] for key in ("displayName", "jobType", "groupName"))
            assert tuple(named) == (run.name, run.job_type, "mine")
            for image in run.images:
                assert online.logged_file(image).startswith(b"\x89PNG")
            for table, (columns, lines) in run.tables.items():
                uploaded = json.loads(online.logged_file(table))
                assert (uploaded["columns"], uploaded["data"]) == (columns, lines)
        [figures] = (run for run in server.runs.values() if run.options["jobType"] == "figure")
        original = folder / "results/figures/mine/samples/psld.png"
        assert figures.logged_file("samples/psld") == original.read_bytes()

        assert sync() == []
        changed = {"estimate": estimate_of(0.5, samples=20)}
        write_result(folder / RESULT, result_of(folder).model_dump() | changed)
        assert sync() == ["evaluate psld/em-3: uploaded", "tabulate mine: uploaded"]
        assert server.runs.keys() == found.keys()
        evaluation = server.runs[runs(folder)["evaluate", "psld/em-3"].id]
        assert evaluation.summary["fd-classifier"] == 0.5
        assert evaluation.steps == [0], "the new row replaces the old one"


@pytest.mark.parametrize("words", [(), ("upload",), ("grid_name=mine", "sync")])
def test_a_command_without_a_known_verb_is_refused(tmp_path, words):
    refused(call(tmp_path, "wandb", *words), 2, "begin with one of sync, dashboard")
