"""The cache of resolved grids: one record alone, and what is composed again, and when."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from psld.config import compose
from psld.config.locations import CONFIGS
from psld.grid import resolution
from psld.grid.cache import CACHE, KINDS, cached, load_grid
from psld.grid.records import Grid
from tests.grid.mine import CONTENT, changed, load

FILE = CACHE / "mine.db"


def content(grid: Grid) -> list[Any]:
    return [grid.file, *(getattr(grid, kind) for kind in KINDS), *map(vars, grid.cells.values())]


@pytest.fixture
def compositions(monkeypatch) -> list[str]:
    """Command and place of all that is composed from now on, as in a new process."""
    composed, compose_content = [], compose.compose_content

    def note(name: str, overrides: Sequence[str], where: str) -> dict[str, Any]:
        composed.append(f"{name} {where.rpartition(': ')[2]}")
        return compose_content(name, overrides, where)

    monkeypatch.setattr(compose, "compose_content", note)
    monkeypatch.setattr(resolution, "_composed", {})
    return composed


def test_the_cache_answers_until_a_config_changes(configs, compositions):
    first = load(configs)
    assert len(set(compositions)) == len(compositions) > 5, "each once"
    everything = sorted(compositions)
    compositions.clear()
    assert content(load(configs)) == content(first)
    assert compositions == []
    training = configs / "training" / "demo.yaml"
    training.parent.mkdir()
    shipped = (CONFIGS / "training" / "demo.yaml").read_text()
    training.write_text(shipped.replace("seed: 0", "seed: 3"))
    assert load(configs).models["psld"].settings.training.seed == 3
    assert sorted(compositions) == everything


def test_only_what_is_new_in_a_grid_is_composed(configs, compositions):
    load(configs)
    for path, value, composed in (
        ("models/cld", ["process=cld"], ["train models.cld"]),
        ("models/cld", ["process=cld", "training.seed=3"], ["train models.cld"]),
        (
            *("tables/steps/columns/1", {"label": "30", "budget": 30}),
            ["sample sampler em-30", "sample sampler em-quadratic-30"],
        ),
    ):
        compositions.clear()
        load(configs, changed(path, value))
        assert compositions == composed


def test_grids_of_one_process_share_what_is_composed(configs, compositions):
    mine = load(configs).models["psld"]
    compositions.clear()
    (configs / "grid" / "other.yaml").write_text(yaml.safe_dump(CONTENT))
    other = load_grid("other").models["psld"]
    assert compositions == []
    assert (other.digest, other.folder) == (mine.digest, "models/other/psld")


def test_a_damaged_cache_is_made_again(configs):
    whole, file = content(load(configs)), FILE.read_bytes()
    digits = file.index(b'"batch_size":64')
    wrong = file[:digits] + b'"batch_size":46' + file[digits + 15 :]
    for damage in (b"", file[: len(file) // 2], b"x" * len(file), wrong):
        FILE.write_bytes(damage)
        assert content(load(configs)) == whole
        assert FILE.read_bytes() == file


def test_a_record_is_read_without_the_others(configs):
    """From a cache that is out of date, too, and never from a damaged row."""
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
