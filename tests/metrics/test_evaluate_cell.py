"""A grid's cell from its shards to its results: `psld sample cell=…`, `psld evaluate cell=…`."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from psld.grid.results import CellResult, CellResults
from psld.sampling.shards import Shard
from tests.commands import call, files_below, refused, succeeded

METRICS = {
    "fd-classifier-train": {"extractor": {"steps": 20}},
    "fd-classifier-test": {"extractor": {"steps": 20}, "reference_split": "test"},
    "fd-classifier-other": {"extractor": {"steps": 20, "seed": 1}},
}
GRID = {
    "defaults": ["dataset=digits"],
    "metric": "fd-classifier-train",
    "samples": 25,
    "shard_size": 10,
    "batch_size": 10,
    "gallery": "em-3",
    "models": {"psld": ["process=psld"]},
    "samplers": {"em": {"overrides": ["sampler=em"], "budget": "sampler.steps"}},
    "tables": {
        "mine": {
            "title": "Mine",
            "headings": ["model"],
            "cell": {"sampler": "em", "budget": 3, "model": "psld"},
            "columns": [
                {"label": "train"},
                {"label": "test", "metric": "fd-classifier-test", "samples": 15},
                {"label": "other", "metric": "fd-classifier-other"},
            ],
            "rows": [{"label": ["PSLD"]}],
        }
    },
}
CELL = "cell=mine/psld/em-3"
RESULT = "results/cells/mine/psld/em-3.json"


def write_yaml(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))


@pytest.fixture(scope="module")
def made(digits, model, tmp_path_factory) -> Path:
    """A folder with a grid of one cell, sampled by two processes: shards 0 and 1, and shard 2."""
    folder = tmp_path_factory.mktemp("cell")
    write_yaml(folder / "configs/grid/mine.yaml", GRID)
    (folder / "data").mkdir()
    shutil.copy(digits, folder / "data/digits.h5")
    shutil.copytree(model, folder / "models/mine/psld")
    for name, own in METRICS.items():
        config = {"defaults": ["fd-classifier", "_self_"], "name": name, **own}
        write_yaml(folder / f"configs/metric/{name}.yaml", config)
        succeeded(call(folder, "train_extractor", f"metric={name}"))
        succeeded(call(folder, "reference", f"metric={name}"))
    succeeded(call(folder, "sample", CELL, "shards=2"))
    succeeded(call(folder, "sample", CELL, "first=2"))
    return folder


@pytest.fixture
def project(made, tmp_path) -> Path:
    """A copy of the folder to damage."""
    return shutil.copytree(made, tmp_path / "project")


def results(folder: Path, file: str = RESULT) -> dict[str, CellResult]:
    return {one.metric["name"]: one for one in CellResults.read(folder / file).results}


def test_all_metrics_of_a_cell_come_from_one_pass_over_its_shards(project, monkeypatch):
    """Each is what an evaluation of it alone gives, with its own number of samples."""
    read = []
    load = Shard.load.__func__

    def count(cls, path):
        read.append(Path(path).name)
        return load(cls, path)

    with monkeypatch.context() as patch:
        patch.setattr(Shard, "load", classmethod(count))
        said = succeeded(call(project, "evaluate", CELL)).stdout
    assert read == ["00000.h5", "00001.h5", "00002.h5"]
    together = results(project)
    assert together.keys() == METRICS.keys()
    assert [line.split(":")[0] for line in said.splitlines()] == [
        "fd-classifier-train of 25 images",
        "fd-classifier-test of 15 images",
        "fd-classifier-other of 25 images",
    ]
    for name, result in together.items():
        folder = f"features/digits/{name}"
        alone = (f"metric={name}", f"extractor={folder}", f"reference={folder}/reference")
        cell = ("model=models/mine/psld", "sampler=em", "sampler.steps=3", "shard_size=10")
        given = (*cell, *alone, f"samples={result.samples}", "shards=samples/mine/psld/em-3")
        succeeded(call(project, "evaluate", *given, "output=alone.json"))
        assert results(project, "alone.json") == {name: result}
    assert len({result.value for result in together.values()}) == 3


def test_what_a_cell_needs_is_sampled_and_no_more(made):
    folder = made / "samples/mine/psld/em-3"
    assert sorted(path.name for path in folder.iterdir()) == [
        "00000-00001.json",
        "00000.h5",
        "00001.h5",
        "00002-00002.json",
        "00002.h5",
    ]
    assert Shard.load(folder / "00000.h5").images.shape == (10, 1, 8, 8)


@pytest.mark.parametrize("how", ["flipped", "deleted"])
def test_a_shard_that_does_not_serve_is_noticed_and_made_again_alone(project, how):
    """Evaluation removes the record of its range; the command of that range makes what lacks."""
    succeeded(call(project, "evaluate", CELL))
    value = results(project)["fd-classifier-train"].value
    (project / RESULT).unlink()
    folder = project / "samples/mine/psld/em-3"
    whole = files_below(folder)
    images = Shard.load(folder / "00001.h5").images
    if how == "flipped":
        damaged = bytearray(whole["00001.h5"])
        damaged[damaged.index(images.tobytes()) + 123] ^= 1
        (folder / "00001.h5").write_bytes(damaged)
        complaint = "damaged shard"
    else:
        (folder / "00001.h5").unlink()
        complaint = "no such shard"
    refused(call(project, "evaluate", CELL), 2, "samples/mine/psld/em-3/00001.h5", complaint)
    assert not (project / RESULT).exists()
    assert whole.keys() - files_below(folder).keys() - {"00001.h5"} == {"00000-00001.json"}

    said = succeeded(call(project, "sample", CELL, "shards=2")).stdout.splitlines()
    assert said[:2] == ["shard 0: is there", "shard 1: 10 images, NFE 3"]
    after = files_below(folder)
    assert after.keys() == whole.keys()
    for name in ("00000.h5", "00002.h5", "00002-00002.json"):
        assert after[name] == whole[name], name
    np.testing.assert_array_equal(Shard.load(folder / "00001.h5").images, images)
    succeeded(call(project, "evaluate", CELL))
    assert results(project)["fd-classifier-train"].value == value


def test_an_unknown_cell_is_refused(made):
    for command in ("sample", "evaluate"):
        for cell in ("mine/psld/em-4", "mine/cld/em-3", "mine/psld"):
            finished = call(made, command, f"cell={cell}")
            refused(finished, 2, f"cell={cell}: no such cell", "psld plan grid_name=mine")
        refused(call(made, command, "cell=other/psld/em-3"), 2, "grid/other.yaml: no such grid")
