"""The cache of resolved grids: when a grid is resolved again."""

from pathlib import Path
from typing import Any

import pytest

from psld.config import compose
from psld.config.locations import CONFIGS
from psld.grid.cache import CACHE, grid_as_json, load_grid
from psld.grid.cells import Grid
from tests.commands import read_only
from tests.grid.mine import TEXT, changed, load

FILE = CACHE / "mine.json"


def content(grid: Grid) -> list[Any]:
    return [grid_as_json(grid), *map(vars, grid.cells.values())]


def edited(configs: Path, file: str, old: str, new: str) -> None:
    """Write the user's own copy of a shipped config, changed."""
    path = configs / file
    path.parent.mkdir(exist_ok=True)
    path.write_text((CONFIGS / file).read_text().replace(old, new))


def test_the_cache_answers_until_a_config_changes(configs, monkeypatch):
    first = load(configs)
    with monkeypatch.context() as patch:
        patch.setattr(compose, "compose_content", lambda *_: pytest.fail("Hydra composes"))
        assert content(load(configs)) == content(first)
        edited(configs, "grid/fast.yaml", "seed: 0", "seed: 1")
        assert content(load(configs)) == content(first), "it does not name the other grid"
    edited(configs, "training/demo.yaml", "seed: 0", "seed: 3")
    assert load(configs).models["psld"].settings.training.seed == 3
    edited(configs, "grid/demo.yaml", "[process=vp-sde]", "[process=vp-sde, training.seed=5]")
    of_another = changed("models/vp-sde", {"of": "demo"})
    assert load(configs, of_another).models["vp-sde"].settings.training.seed == 5
    edited(configs, "grid/demo.yaml", "[process=vp-sde]", "[process=vp-sde, training.seed=6]")
    assert load(configs, of_another).models["vp-sde"].settings.training.seed == 6


def test_a_grid_is_read_in_a_folder_that_cannot_be_written(configs, tmp_path):
    (configs / "grid" / "mine.yaml").write_text(TEXT)
    with read_only(tmp_path):
        assert set(load_grid("mine").models) == {"vp-sde", "psld"}
    assert not CACHE.exists()


def test_a_damaged_cache_is_made_again(configs):
    whole, file = content(load(configs)), FILE.read_bytes()
    digits = file.index(b'"batch_size": 64')
    wrong = file[:digits] + b'"batch_size": 46' + file[digits + 16 :]
    for damage in (file[: len(file) // 2], wrong):
        FILE.write_bytes(damage)
        assert content(load(configs)) == whole
        assert FILE.read_bytes() == file
