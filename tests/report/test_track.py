"""`psld wandb track`: the results of a grid as real wandb runs, each written once."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import yaml
from PIL import Image

from psld.config.settings import write_record
from psld.grid.results import CellResult, CellResults
from psld.report.track import SIDE
from psld.sampling.shards import Shard
from tests.commands import call, refused, succeeded
from tests.offline_runs import OfflineRun, offline_runs
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


@pytest.fixture(scope="module")
def tracked(results, tmp_path_factory) -> Path:
    """A copy of it for which the command has run."""
    folder = copy_of(results, tmp_path_factory.mktemp("tracked") / "project")
    with mock.patch.dict(os.environ):  # wandb names its service to later processes
        assert "6 runs, of which 6 are new or changed" in track(folder)
    return folder


@pytest.fixture
def folder(results, tmp_path) -> Iterator[Path]:
    """A copy of it, in which nothing has been written yet."""
    with mock.patch.dict(os.environ):
        yield copy_of(results, tmp_path / "project")


@pytest.fixture
def written(tracked, tmp_path) -> Iterator[Path]:
    """A copy for which the command has run."""
    with mock.patch.dict(os.environ):
        yield copy_of(tracked, tmp_path / "written")


def copy_of(results: Path, folder: Path) -> Path:
    ignored = shutil.ignore_patterns("configs", ".cache")
    shutil.copytree(results, folder, symlinks=True, ignore=ignored)
    link_grid(results, folder)
    return folder


def track(folder: Path, *overrides: str) -> str:
    return succeeded(call(folder, "wandb", "track", "grid_name=mine", *overrides)).stdout


def runs(folder: Path) -> dict[tuple[str, str], OfflineRun]:
    """What was written, by job type and name."""
    written = offline_runs(folder / "results" / "tracked" / "mine")
    named = {(run.start["job_type"], run.start["display_name"]): run for run in written}
    assert len(named) == len(written), "a run is there twice"
    return named


def test_every_result_is_a_run_of_the_grid(tracked):
    written = runs(tracked)
    cells = [
        (stage, f"{model}/em-3") for stage in ("sample", "evaluate") for model in ("psld", "cld")
    ]
    assert set(written) == {*cells, ("tabulate", "mine"), ("figure", "figures")}
    assert {run.start["run_group"] for run in written.values()} == {"mine"}
    assert {run.start["project"] for run in written.values()} == {"psld"}
    assert [run.of_kind("exit")[-1]["exit_code"] for run in written.values()] == [0] * 6


def test_an_evaluation_carries_its_metric_and_settings(tracked):
    result = result_of(tracked)
    written = runs(tracked)
    run, guided = (written["evaluate", f"{model}/em-3"] for model in ("psld", "cld"))
    assert run.start["tags"] == ["digits", "fd-classifier"]
    for name, value in {
        "fd-classifier": result.value,
        "paper": 2.5,
        "nfe": result.nfe,
        "images": 20,
        "sampling_seconds": result.sampling_seconds,
        "noise": result.noise,
    }.items():
        assert run.summary[name] == pytest.approx(value), name
    assert "class_accuracy" not in run.summary
    assert run.config["process"]["gamma"] == 0.01
    assert run.config["model"] == "psld"
    assert run.config["sampler"]["name"] == "em-3"
    assert run.config["sampler"]["steps"] == 3
    assert run.config["metric"]["name"] == "fd-classifier"
    assert run.config["weights_sha256"] == result.model.weights_sha256
    assert guided.summary["class_accuracy"] == 0.75
    assert "samples.path" not in guided.summary, "its shard is gone"


@pytest.mark.parametrize("stage", ["sample", "evaluate"])
def test_a_cell_shows_its_first_images(tracked, stage):
    run = runs(tracked)[stage, "psld/em-3"]
    shown = np.array(Image.open(run.logged_file("samples")).convert("RGB"))
    images = Shard.load(tracked / "samples/mine/psld/em-3/00000.safetensors").images
    for index in (0, SIDE - 1, SIDE):
        row, column = (1 + 9 * place for place in divmod(index, SIDE))
        assert (shown[row : row + 8, column : column + 8, 0] == images[index, 0]).all()


def test_a_table_arrives_as_it_is_printed_and_with_every_entry(tracked):
    run = runs(tracked)["tabulate", "mine"]
    value = result_of(tracked).value
    printed = json.loads(run.logged_file("table").read_text())
    assert printed["columns"] == ["model", "3", "5"]
    model, shown, missing = printed["data"][0]
    assert (model, missing) == ("PSLD", "–")
    assert shown.startswith(f"{value:.2f} ± ")
    assert shown.endswith(f" (2.50, {value - 2.5:+.2f})")
    entries = json.loads(run.logged_file("entries").read_text())
    records = [dict(zip(entries["columns"], row, strict=True)) for row in entries["data"]]
    assert [record["cell"] for record in records] == [
        *("mine/psld/em-3", "mine/psld/em-5", "mine/cld/em-3", "mine/cld/em-5")
    ]
    assert records[0]["ours"] == pytest.approx(value)
    assert records[1]["ours"] is None
    assert (run.summary["measured"], run.summary["not run"]) == (2, 2)


def test_figures_arrive_under_their_names(tracked):
    """`samples/psld` is the name of a figure of the grid; one that is missing is left out."""
    run = runs(tracked)["figure", "figures"]
    picture = run.logged_file("samples/psld")
    original = tracked / "results/figures/mine/samples/psld.png"
    assert (np.array(Image.open(picture)) == np.array(Image.open(original))).all()
    assert [name for name in run.summary if name.endswith(".path")] == ["samples/psld.path"]


def test_what_is_written_is_not_written_again(written):
    before = {run.file: run.file.stat().st_mtime_ns for run in runs(written).values()}
    assert "6 runs, of which 0 are new or changed" in track(written)
    assert {run.file: run.file.stat().st_mtime_ns for run in runs(written).values()} == before


def test_a_result_made_again_replaces_its_run(written):
    before = runs(written)
    changed = {"estimate": estimate_of(0.5, samples=20)}
    write_result(written / RESULT, result_of(written).model_dump() | changed)
    assert "6 runs, of which 2 are new or changed" in track(written)
    after = runs(written)
    changed = [("evaluate", "psld/em-3"), ("tabulate", "mine")]
    assert [run for run in before if before[run].file != after[run].file] == changed
    assert {name: run.start["run_id"] for name, run in after.items()} == {
        name: run.start["run_id"] for name, run in before.items()
    }
    assert after["evaluate", "psld/em-3"].summary["fd-classifier"] == 0.5


def test_before_anything_ran_there_is_nothing_to_write(folder):
    shutil.rmtree(folder / "results")
    assert "0 runs" in track(folder)


def test_switched_off(folder):
    assert "nothing is written" in track(folder, "wandb.mode=disabled")
    assert not (folder / "results" / "tracked").exists()


@pytest.mark.parametrize("words", [(), ("upload",), ("grid_name=mine", "track")])
def test_a_command_without_a_known_verb_is_refused(tmp_path, words):
    refused(call(tmp_path, "wandb", *words), 2, "begin with one of track, sync, dashboard")


def test_nobody_logged_in_is_one_line_and_nothing_counts_as_written(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    finished = call(folder, "wandb", "track", "grid_name=mine", "wandb.mode=online")
    refused(finished, 2, "wandb: ", "wandb login")
    assert "6 runs, of which 6 are new or changed" in track(folder)
