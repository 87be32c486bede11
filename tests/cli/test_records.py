"""Jobs that take their settings from a record of a grid: alone, with `record=`, with overrides."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from psld.grid.cache import CACHE, load_grid
from tests.commands import TINY, call, refused, succeeded
from tests.grid.mine import changed, load

FILE = CACHE / "mine.json"


def write_mine(folder: Path) -> Path:
    """Write configs with a grid, `mine`, resolve it, and return their folder."""
    configs = folder / "configs"
    (configs / "grid").mkdir(parents=True)
    guided = {
        "overrides": ["sampler=em", "guidance@sampler.guidance=classifier"],
        "budget": "sampler.steps",
        "guide": "g",
    }
    halves = ["guidance@sampler.guidance=inpainting", "mask@sampler.guidance.mask=halves"]
    inpainting = {"overrides": ["sampler=em", *halves], "budget": "sampler.steps"}
    content = changed("samplers/guided", guided) | {
        "guides": {"g": ["dataset=digits", "process=psld"]},
        "figures": {"pictures": ["psld/guided-10", "psld/inpainting-10"]},
    }
    content["samplers"]["inpainting"] = inpainting
    content["tables"]["tolerance"]["columns"][1]["metric"] = "fid"
    with contextlib.chdir(folder):
        load(configs, content)
    return configs


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return write_mine(tmp_path_factory.mktemp("mine"))


@pytest.fixture
def folder(written, monkeypatch) -> Path:
    """A working directory with `mine` in its cache; tests must not change it."""
    monkeypatch.chdir(written.parent)
    return written.parent


@pytest.fixture
def configs(tmp_path, monkeypatch) -> Path:
    """The user's configs, which a test may change."""
    monkeypatch.chdir(tmp_path)
    return write_mine(tmp_path)


def printed(folder: Path, *words: str) -> dict[str, Any]:
    """Return the settings of a command with these arguments."""
    return yaml.safe_load(succeeded(call(folder, *words, "--cfg", "job")).stdout)


# --- record=DIGEST --------------------------------------------------------------------------------


def test_a_planned_job_is_not_affected_by_other_edits_of_the_grid(configs, tmp_path):
    record = load_grid("mine").datasets["digits"].job.digest
    prepare = ("prepare", "dataset=mine/digits", f"record={record}")
    before = FILE.read_bytes()
    (configs / "grid" / "mine.yaml").write_text("half: written")
    succeeded(call(tmp_path, *prepare, "output=first.h5"))
    assert FILE.read_bytes() == before, "the cache is as it was"
    load(configs, changed("models/another", ["process=cld"]))
    succeeded(call(tmp_path, *prepare))
    assert (tmp_path / "data/digits.h5").exists()
    shutil.rmtree(CACHE)
    succeeded(call(tmp_path, *prepare))


def test_a_job_refuses_a_record_that_differs_from_the_planned_record(
    configs, tmp_path, monkeypatch
):
    cell = load_grid("mine").cells["psld/em-20"]
    planned = f"cell=mine/psld/em-20 record={cell.evaluation_digest}".split()
    monkeypatch.setenv("PSLD_RECORDS", cell.digest)  # set by Snakemake for its jobs
    refused(
        call(tmp_path, "evaluate_cell", *planned), 2, "changed since this job was submitted; run"
    )
    monkeypatch.setenv("PSLD_RECORDS", f"{cell.digest},{cell.evaluation_digest}")
    refused(call(tmp_path, "evaluate_cell", *planned), 2, "models/mine/psld/manifest.json: no such")
    load(configs, changed("models/psld", ["process=psld", "training.steps=8"]))
    line = refused(
        call(tmp_path, "evaluate_cell", *planned), 2, "cell=mine/psld/em-20: the grid has"
    )
    assert line.endswith(f"not {cell.evaluation_digest}); run Snakemake again\n")
    load(configs, changed("tables/steps/columns/1", {"label": "30", "budget": 30}))
    refused(call(tmp_path, "evaluate_cell", *planned), 2, "cell=mine/psld/em-20: no such cell")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("train record=x", "unknown key record"),
        ("train model=mine/pdls", "model=mine/pdls: no such model in configs/grid/mine.yaml"),
        ("train model=mine", "no such model in configs/grid/mine.yaml; there are: vp-sde, psld"),
        ("train model=none/psld", "none.yaml: no such grid (is one meant?); there are: demo, "),
        ("sample cell=mine/psld/em-11", "no such cell (is psld/em-10 meant?)"),
        ("sample cell=mine/psld/em-10 seeed=3", "unknown key seeed (is seed meant?);"),
        ("sample cell=mine/psld/em-10 seed=3", "missing: output=…"),
        ("evaluate_cell cell=mine/psld/em-10 seed=3", "seed=3: the grid sets this for cell"),
        ("evaluate_cell cell=mine/psld/em-10 'keep=a b'", "only with these settings, without"),
        ("sample cell=mine/psld/em-10 first=-1", "cell=mine/psld/em-10: first: Input should be"),
        ("evaluate_cell cell=mine/psld/guided-10", "no table shows this cell, so it has no metric"),
        ("evaluate_cell samples=3", "psld evaluate_cell: cell is missing; add cell=GRID/NAME"),
        ("train_extractor features=mine/digits/fid", "features=fid: the extractor is published"),
    ],
)  # fmt: skip
def test_unknown_records_are_refused(folder, words, complaint):
    refused(call(folder, *words.split()), 2, complaint)


# --- overrides on top of a record -----------------------------------------------------------------


def test_overrides_change_the_settings_of_a_model(folder):
    plain = load_grid("mine").models["psld"].settings.model_dump(mode="json")
    places = {"output": "models/by-hand/psld"}
    assert printed(folder, "train", "model=mine/psld") == plain | places
    steps = printed(folder, "train", "model=mine/psld", "training.steps=500", "name=short")
    assert steps["training"] == plain["training"] | {"steps": 500}
    assert (steps["name"], steps["output"]) == ("short", "models/by-hand/short")
    levels = printed(folder, "train", "model=mine/psld", "network.channel_multipliers=[1,2]")
    assert levels["network"] == plain["network"] | {"channel_multipliers": [1, 2]}


def test_a_selected_group_replaces_the_group_of_the_record(folder):
    words = ("train", "model=mine/psld", "process=vp-sde", "dataset=fashion-mnist")
    config = printed(folder, *words, "network=small")
    assert config["process"] == printed(folder, "train", "process=vp-sde")["process"]
    assert config["data"] == "data/fashion-mnist.h5"
    assert config["training"]["steps"] == 9, "the record's"


def test_the_help_shows_the_values_of_a_record(folder):
    shown = succeeded(call(folder, "train", "model=mine/psld", "process=cld", "-h")).stdout
    assert "process: cld (chosen), fourth-order, psld, recipe" in shown
    assert "    steps: 9\n" in shown


def test_free_settings_of_a_record_are_kept(configs, tmp_path):
    load(configs, changed("models/psld", ["process=psld", "wandb.mode=disabled", "device=cpu"]))
    config = printed(tmp_path, "train", "model=mine/psld", "training.steps=3")
    assert (config["wandb"]["mode"], config["device"]) == ("disabled", "cpu")


def test_another_sampler_keeps_the_guidance_of_a_cell(folder):
    cell = ("sample", "cell=mine/psld/guided-10", "output=other")
    plain = printed(folder, *cell)
    assert plain["sampler"]["guidance"]["kind"] == "classifier"
    sscs = printed(folder, *cell, "sampler=sscs", "sampler.guidance.scale=3")
    assert sscs["sampler"]["integrator"] == "sscs"
    assert sscs["sampler"]["guidance"] == plain["sampler"]["guidance"] | {"scale": 3}
    assert (sscs["guide"], sscs["model"]) == ("guides/mine/g", "models/mine/psld")
    bare = printed(folder, *cell, "guidance@sampler.guidance=none", "guide=null")
    assert bare["sampler"] == plain["sampler"] | {"guidance": {"kind": "none"}}
    inpainted = printed(folder, "sample", "cell=mine/psld/inpainting-10", "output=other", "seed=3")
    assert (inpainted["data"], inpainted["seed"]) == ("data/digits.h5", 3)


def test_a_sweep_starts_from_a_model(folder, digits):
    swept = ("--multirun", "training.seed=5", "name=psld-seed-${training.seed}")
    words = (*swept, "model=mine/psld", f"data={digits}", *TINY)
    succeeded(call(folder, "train", *words, "training.steps=2"))
    manifest = json.loads((folder / "models/by-hand/psld-seed-5/manifest.json").read_text())
    assert (manifest["name"], manifest["settings"]["training"]["seed"]) == ("psld-seed-5", 5)
