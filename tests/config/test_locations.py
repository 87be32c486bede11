"""The locations of configs: the user's folder comes before the shipped configs."""

import re
from pathlib import Path

import pytest
import yaml

from psld.config.compose import compose_content
from psld.config.locations import CONFIGS, config_file, config_folders, config_names
from tests.commands import TINY, call, refused, succeeded
from tests.grid.mine import TEXT

SHIPPED_GRIDS = sorted(path.stem for path in (CONFIGS / "grid").glob("*.yaml"))
MINE = "defaults: [psld, _self_]\ngamma: 0.125\n"


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Write a config of the user below the working directory."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str) -> Path:
        path = tmp_path / "configs" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def test_shipped_configs_are_found(tmp_path, monkeypatch):
    """In a checkout, ./configs is the shipped folder itself."""
    for folder in (tmp_path, CONFIGS.parent):
        monkeypatch.chdir(folder)
        assert config_folders() == [CONFIGS]
        assert config_names("grid") == SHIPPED_GRIDS
        assert config_file("", "train") == CONFIGS / "train.yaml"


def test_custom_configs_come_first(own, tmp_path):
    mine, demo = own("grid/mine", TEXT), own("grid/demo", "")
    assert config_names("grid") == sorted([*SHIPPED_GRIDS, "mine"])
    assert [config_file("grid", name) for name in ("mine", "demo", "none")] == [mine, demo, None]
    assert config_file("grid", "paper") == CONFIGS / "grid" / "paper.yaml"
    listed = succeeded(call(tmp_path, "plan", "grid_name=mine", "list=cells")).stdout.splitlines()
    assert "mine/psld/em-quadratic-10" in listed
    assert {cell.partition("/")[0] for cell in listed} == {"mine"}


def test_a_custom_config_replaces_a_shipped_config_of_the_same_name(own):
    path = own("training/demo", (CONFIGS / "training" / "demo.yaml").read_text())
    path.write_text(path.read_text().replace("steps: 1200", "steps: 7"))
    assert compose_content("train", [], "test")["training"]["steps"] == 7
    path.unlink()
    assert compose_content("train", [], "test")["training"]["steps"] == 1200


def test_a_wrong_key_of_a_custom_config_is_named_with_its_file(own, tmp_path):
    own("sampler/mine", "defaults: [em, _self_]\nstridin: uniform\n")
    words = ("sample", "model=x", "output=x", "sampler=mine")
    said = "configs/sampler/mine.yaml: unknown key sampler.stridin"
    refused(call(tmp_path, *words), 2, f"{said} (is sampler.striding meant?)")


def test_sweeps_find_custom_configs_and_name_each_process(own, tmp_path, digits):
    own("process/mine", MINE)
    recipe = ("process=mine,cld", *TINY, "training.steps=1", f"data={digits}")
    succeeded(call(tmp_path, "train", "--multirun", *recipe))
    models = tmp_path / "models" / "by-hand"
    assert {path.name for path in models.iterdir()} == {"mine", "cld"}
    process = yaml.safe_load((models / "mine/manifest.json").read_text())["settings"]["process"]
    assert (process["gamma"], process["kappa"]) == (0.125, 0.04), "built upon a shipped one"
    line = refused(call(tmp_path, "train", "process=other"), 2, "other")
    assert {"mine", "psld"} <= set(re.split(r"[\s,]+", line)), "both kinds are listed"


@pytest.mark.parametrize("flags", [(), ("--multirun",)], ids=str)
def test_a_custom_config_that_is_not_yaml_is_refused_in_one_line(own, tmp_path, flags):
    path = own("process/psld", "gamma: 0\nS: [1.0, 0.25\nkind: matrices\n")
    refused(call(tmp_path, "train", *flags), 2, "not valid YAML", f'"{path}", line 3')
    path.write_text("gamma: ${nothing\n")
    refused(call(tmp_path, "train", *flags), 2, "'${nothing'")
