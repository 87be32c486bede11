"""A rehearsal: small versions of another grid's models and cells."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from psld.config.locations import CONFIGS
from psld.grid.loading import load_grid
from psld.utils.errors import UserError

REHEARSAL: dict[str, Any] = {
    "rehearses": "demo",
    "models": ["network.base_channels=8", "training.steps=2", "wandb.mode=disabled"],
    "budgets": {"sampler.steps": 3, "sampler.tolerance": "1e-1"},
    "samples": 6,
    "shard_size": 4,
    "batch_size": 2,
}


@pytest.fixture
def configs(tmp_path, monkeypatch) -> Path:
    """The user's own folder of configs, with a copy of the demo's grid."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs" / "grid").mkdir(parents=True)
    shutil.copy(CONFIGS / "grid" / "demo.yaml", tmp_path / "configs" / "grid")
    return tmp_path / "configs"


def write(configs: Path, **changes: Any) -> None:
    (configs / "grid" / "small.yaml").write_text(yaml.safe_dump(REHEARSAL | changes))


def test_cells_keep_their_names_and_lose_their_size(configs):
    write(configs)
    small, whole = load_grid("small"), load_grid("demo")
    assert small.cells == whole.cells
    assert {e.samples for e in small.evaluations} == {6}
    assert {small.shards[cell] for cell in small.cells} == {2}
    for name, sampler in small.samplers.items():
        settings, of_whole = sampler.settings, whole.samplers[name].settings
        if "steps" in settings:
            assert settings["steps"] == 3
            assert settings == of_whole | {"steps": 3}
        else:
            assert settings == of_whole | {"tolerance": 0.1}


def test_models_and_guides_become_small(configs):
    write(configs)
    grid = load_grid("small")
    for trained in (*grid.models.values(), *grid.guides.values()):
        assert trained.settings["network"]["base_channels"] == 8
        assert trained.settings["training"]["steps"] == 2


def test_nothing_is_imported(configs):
    demo = configs / "grid" / "demo.yaml"
    content = yaml.safe_load(demo.read_text())
    content["models"]["cld"] = {"overrides": ["process=cld"], "checkpoint": "official.ckpt"}
    demo.write_text(yaml.safe_dump(content))
    write(configs)
    assert load_grid("demo").models["cld"].checkpoint == "official.ckpt"
    assert load_grid("small").models["cld"].checkpoint is None


def test_names_and_titles_tell_a_rehearsal_from_the_grid(configs):
    write(configs)
    small, whole = load_grid("small").file, load_grid("demo").file
    assert list(small.tables) == [f"small-{name}" for name in whole.tables]
    assert list(small.figures) == [f"small-{name}" for name in whole.figures]
    for table in small.tables.values():
        assert table.title.startswith("Rehearsal of: ")
        assert table.band is None, "nothing counts as reproduced"


def test_a_change_of_the_grid_changes_its_rehearsal(configs):
    write(configs)
    load_grid("small")
    demo = configs / "grid" / "demo.yaml"
    demo.write_text(demo.read_text().replace("cld: [process=cld]", "renamed: [process=cld]", 1))
    with pytest.raises(UserError, match=r"small\.yaml: .*'cld'"):
        load_grid("small")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"rehearses": "none"}, r"none\.yaml: no such grid"),
        ({"rehearses": "small"}, r"small\.yaml is itself a rehearsal"),
        ({"models": ["network.width=8"]}, r"small\.yaml: models\.\S+: .* called network\.width"),
        ({"budgets": {"sampler.steps": 1}}, r"small\.yaml: sampler \S+: sampler\.steps"),
        ({"samples": 0}, "samples: Input should be greater than or equal to 3"),
        ({"tables": {}}, "unknown key tables"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(configs, changes, complaint):
    write(configs, **changes)
    with pytest.raises(UserError, match=complaint) as refused:
        load_grid("small")
    assert "\n" not in str(refused.value)
