"""The cache of resolved grids: when a grid is resolved again."""

import os
from pathlib import Path
from typing import Any

import pytest

from psld.config.locations import CONFIGS, config_names
from psld.grid.cache import CACHE, grid_as_json, load_grid
from psld.grid.cells import Grid
from psld.grid.workflow import Workflow
from psld.utils.errors import UserError
from tests.commands import read_only
from tests.grid.mine import TEXT, changed, load

FILE = CACHE / "mine.json"


def content(grid: Grid) -> list[Any]:
    return [grid_as_json(grid), *map(vars, grid.cells.values())]


def edited(configs: Path, file: str, old: str, new: str) -> None:
    """Write a changed copy of a shipped config into the user's configs."""
    path = configs / file
    path.parent.mkdir(exist_ok=True)
    path.write_text((CONFIGS / file).read_text().replace(old, new))


def test_cache_is_used_until_a_config_changes(configs, monkeypatch):
    """This includes the config of a second grid whose model the grid uses."""
    edited(configs, "grid/demo.yaml", "[process=vp-sde]", "[process=vp-sde, training.seed=5]")
    mine = changed("models/vp-sde", {"of": "demo"})
    first = load(configs, mine)
    assert first.models["vp-sde"].settings.training.seed == 5
    with monkeypatch.context() as patch:
        composes = "psld.config.compose.Composer.content"
        patch.setattr(composes, lambda *_: pytest.fail("Hydra composes"))
        assert content(load(configs, mine)) == content(first)
    edited(configs, "grid/demo.yaml", "[process=vp-sde]", "[process=vp-sde, training.seed=6]")
    assert load(configs, mine).models["vp-sde"].settings.training.seed == 6


def test_change_in_a_linked_folder_invalidates_the_cache(configs, tmp_path):
    edited(configs, "process/psld.yaml", "", "")
    load(configs)
    (configs / "process").rename(tmp_path / "shared")
    (configs / "process").symlink_to(tmp_path / "shared")
    assert load_grid("mine").models["psld"].settings.process.gamma == 0.01
    file = tmp_path / "shared/psld.yaml"
    file.write_text(file.read_text().replace("0.01", "0.5"))
    assert load_grid("mine").models["psld"].settings.process.gamma == 0.5


def test_files_that_are_not_configs_are_ignored(configs):
    """They are ignored by `load_grid`, `config_names` and the workflow."""
    first, grids = load(configs), config_names("grid")
    for folder in (configs / "grid", configs / "process"):
        folder.mkdir(exist_ok=True)
        for name, target in {
            ".#psld.yaml": "me@host.123:17",  # a lock file of an editor
            "digits.yaml": "nowhere",
            "itself.yaml": "itself.yaml",
            "zero.yaml": "/dev/zero",
            "loop": "..",
        }.items():
            (folder / name).symlink_to(target)
        (folder / "psld.yaml").mkdir()
        os.mkfifo(folder / "pipe.yaml")
        (folder / "._x.yaml").write_bytes(b"\0\5\xff")  # a metadata file of macOS
    assert content(load_grid("mine")) == content(first)
    assert config_names("grid") == grids
    with pytest.raises(UserError, match="no grid has these"):
        Workflow({"mine": first.file}, {}).word("datasets", "nowhere")


def test_grid_can_be_read_in_a_read_only_folder(configs, tmp_path):
    (configs / "grid" / "mine.yaml").write_text(TEXT)
    with read_only(tmp_path):
        assert set(load_grid("mine").models) == {"vp-sde", "psld"}
    assert not CACHE.exists()


def test_damaged_cache_is_recomputed(configs):
    whole, file = content(load(configs)), FILE.read_bytes()
    FILE.write_bytes(file.replace(b'"batch_size": 64', b'"batch_size": 46', 1))
    assert content(load(configs)) == whole
    assert FILE.read_bytes() == file
