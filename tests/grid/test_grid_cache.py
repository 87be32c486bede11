"""The cache of composed grids: what is composed again, and when."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from psld.config.compose import compose_content
from psld.config.locations import CONFIGS
from psld.grid import composing
from psld.grid.loading import load_grid
from tests.grid.mine import CONTENT, changed, load


def test_the_cache_answers_until_a_config_changes(configs, monkeypatch):
    first = load(configs)

    def refuse(*_):
        raise AssertionError("composed although nothing has changed")

    with monkeypatch.context() as patch:
        patch.setattr(composing, "compose_content", refuse)
        assert load(configs) == first
    training = configs / "training" / "demo.yaml"
    training.parent.mkdir()
    shipped = (CONFIGS / "training" / "demo.yaml").read_text()
    training.write_text(shipped.replace("seed: 0", "seed: 3"))
    assert load(configs).models["psld"].settings["training"]["seed"] == 3


def test_a_damaged_cache_is_made_again(configs):
    whole = load(configs)
    [cached] = Path(".cache/grids").iterdir()
    size = cached.stat().st_size
    for damage in (b"", cached.read_bytes()[: size // 2], b"x" * size):
        cached.write_bytes(damage)
        assert load(configs) == whole
        assert cached.stat().st_size == size


@pytest.fixture
def compositions(monkeypatch) -> list[str]:
    """Command and place of all that is composed from now on, as in a new process."""
    composed = []

    def note(name: str, overrides: Sequence[str], where: str) -> dict[str, Any]:
        composed.append(f"{name} {where.rpartition(': ')[2]}")
        return compose_content(name, overrides, where)

    monkeypatch.setattr(composing, "compose_content", note)
    monkeypatch.setattr(composing, "_composed", {})
    return composed


def test_a_new_model_is_the_only_one_that_is_composed(configs, compositions):
    load(configs)
    assert {"train models.vp-sde", "train models.psld", "sample sampler em-10"} <= set(compositions)
    compositions.clear()
    more = load(configs, changed("models/cld", ["process=cld"]))
    assert compositions == ["train models.cld"]
    compositions.clear()
    assert load(configs, changed("models/cld", ["process=cld", "training.seed=3"])) != more
    assert compositions == ["train models.cld"]


def test_what_stays_in_a_grid_is_not_composed_for_a_new_table_or_budget(configs, compositions):
    load(configs)
    compositions.clear()
    load(configs, changed("tables/steps/columns/1", {"label": "30", "budget": 30}))
    assert sorted(compositions) == ["sample sampler em-30", "sample sampler em-quadratic-30"]


def test_every_thing_is_composed_again_for_another_config(configs, compositions):
    load(configs)
    everything = sorted(compositions)
    assert len(set(everything)) == len(everything), "each once"
    compositions.clear()
    (configs / "network").mkdir()
    (configs / "network" / "mine.yaml").write_text("kind: ncsnpp")
    load(configs)
    assert sorted(compositions) == everything


def test_grids_of_one_process_share_what_is_composed(configs, compositions):
    load(configs)
    compositions.clear()
    (configs / "grid" / "other.yaml").write_text(yaml.safe_dump(CONTENT))
    assert load_grid("other").models == load(configs).models
    assert compositions == []
