"""The cache of resolved grids: one record alone, and when a grid is resolved again."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from psld.config import compose
from psld.config.locations import CONFIGS
from psld.grid.cache import CACHE, KINDS, cached
from psld.grid.records import Grid
from tests.grid.mine import changed, load

FILE = CACHE / "mine.db"


def content(grid: Grid) -> list[Any]:
    return [grid.file, *(getattr(grid, kind) for kind in KINDS), *map(vars, grid.cells.values())]


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


def test_a_damaged_cache_is_made_again(configs):
    whole, file = content(load(configs)), FILE.read_bytes()
    digits = file.index(b'"batch_size":64')
    wrong = file[:digits] + b'"batch_size":46' + file[digits + 15 :]
    for damage in (b"", file[: len(file) // 2], b"x" * len(file), wrong):
        FILE.write_bytes(damage)
        assert content(load(configs)) == whole
        assert FILE.read_bytes() == file


def test_a_record_is_read_without_the_others(configs):
    """From a cache that is out of date, too."""
    cell = load(configs).cells["psld/em-20"]
    (configs / "grid" / "mine.yaml").write_text("half: written")
    own = "kind IN ('options', 'metrics', 'features') OR name IN ('psld/em-20', 'psld', 'em-20')"
    with closing(sqlite3.connect(FILE)) as database:
        database.execute(f"UPDATE records SET content = 'damaged' WHERE NOT ({own})")
        database.commit()
    alone = cached("mine", "cells", "psld/em-20")
    assert (alone.sample_job, alone.evaluate_job) == (cell.sample_job, cell.evaluate_job)
    assert cached("mine", "models", "psld") == cell.model
    assert cached("mine", "features", "digits/fd-classifier") == cell.features["fd-classifier"]
    for kind, name in (("cells", "psld/em-10"), ("models", "vp-sde"), ("models", "none")):
        assert cached("mine", kind, name) is None
    assert cached("other", "models", "psld") is None
    assert [path.name for path in Path(CACHE).iterdir()] == ["mine.db"]
