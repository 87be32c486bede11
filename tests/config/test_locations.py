"""The locations of configs: the user's folder comes before the shipped configs."""

import re

import pytest
import yaml

from psld.config.compose import compose_content
from psld.config.locations import CONFIGS, config_file, config_folders, config_names
from tests.commands import TINY, call, refused, succeeded

SHIPPED_GRIDS = ["demo", "fast", "paper", "rehearsal", "small", "small-seeds"]


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes a config of the user's own below the working directory."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str):
        path = tmp_path / "configs" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def test_the_shipped_configs_are_those_of_the_package():
    assert (CONFIGS / "train.yaml").is_file()
    assert (CONFIGS / "grid" / "demo.yaml").is_file()


def test_a_folder_without_configs_has_the_shipped_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config_folders() == [CONFIGS]
    assert config_names("grid") == SHIPPED_GRIDS


def test_the_shipped_folder_is_nobodys_own(monkeypatch):
    """In a checkout, ./configs is the shipped folder itself."""
    monkeypatch.chdir(CONFIGS.parent)
    assert config_folders() == [CONFIGS]


def test_own_configs_come_first(own):
    mine, demo = own("grid/mine", ""), own("grid/demo", "")
    assert config_names("grid") == sorted([*SHIPPED_GRIDS, "mine"])
    assert config_file("grid", "mine") == mine
    assert config_file("grid", "demo") == demo
    assert config_file("grid", "paper") == CONFIGS / "grid" / "paper.yaml"
    assert config_file("grid", "none") is None


def test_an_own_config_can_be_chosen_next_to_the_shipped_ones(own):
    own("process/mine", "defaults: [psld, _self_]\ngamma: 0.125\n")
    chosen = compose_content("train", ["process=mine"], "test")
    assert chosen["process"]["gamma"] == 0.125
    assert chosen["process"]["kappa"] == 0.04, "what it is built upon is shipped"
    assert compose_content("train", ["process=cld"], "test")["process"]["gamma"] == 0


def test_an_own_config_takes_the_place_of_a_shipped_one(own):
    path = own("training/demo", (CONFIGS / "training" / "demo.yaml").read_text())
    path.write_text(path.read_text().replace("steps: 1200", "steps: 7"))
    assert compose_content("train", [], "test")["training"]["steps"] == 7
    path.unlink()
    assert compose_content("train", [], "test")["training"]["steps"] == 1200


def test_commands_find_own_configs(own, tmp_path, digits):
    own("process/mine", "defaults: [psld, _self_]\ngamma: 0.125\n")
    recipe = ("process=mine", *TINY, "training.steps=1", f"data={digits}")
    succeeded(call(tmp_path, "train", *recipe))
    manifest = yaml.safe_load((tmp_path / "models/by-hand/mine/manifest.json").read_text())
    assert manifest["settings"]["process"]["gamma"] == 0.125
    line = refused(call(tmp_path, "train", "process=other"), 2, "other")
    assert {"mine", "psld"} <= set(re.split(r"[\s,]+", line)), "both kinds are listed"


@pytest.mark.parametrize("flags", [(), ("--cfg", "job"), ("--help",), ("--multirun",)], ids=str)
def test_an_own_config_that_is_no_yaml_is_one_line(own, tmp_path, flags):
    path = own("process/psld", "gamma: 0\nS: [1.0, 0.25\nkind: matrices\n")
    refused(call(tmp_path, "train", *flags), 2, "not valid YAML", f'"{path}", line 3')
    path.write_text("gamma: ${nothing\n")
    refused(call(tmp_path, "train", *flags), 2, "'${nothing'")


def test_sweeps_find_own_configs(own, tmp_path, digits):
    own("process/mine", "defaults: [psld, _self_]\ngamma: 0.125\n")
    recipe = ("process=mine,cld", *TINY, "training.steps=1", f"data={digits}")
    succeeded(call(tmp_path, "train", "--multirun", *recipe))
    assert {path.name for path in (tmp_path / "models" / "by-hand").iterdir()} == {"mine", "cld"}


def test_an_own_grid_is_a_grid(own, tmp_path):
    text = (CONFIGS / "grid" / "demo.yaml").read_text()
    own("grid/mine", text.replace(" demo-", " mine-"))
    listed = succeeded(call(tmp_path, "plan", "grid_name=mine", "list=cells")).stdout.splitlines()
    assert "mine/cld/em-quadratic-40" in listed
    assert {cell.partition("/")[0] for cell in listed} == {"mine"}
