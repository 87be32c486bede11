"""Grids that depend on another grid: rehearsals, and models that another grid trains."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from psld.grid.cache import load_grid
from psld.grid.members import SamplerFamily
from psld.report.plan import jobs_by_stage
from psld.utils.errors import UserError
from tests.grid.mine import changed, workflow_of

REHEARSAL: dict[str, Any] = {
    "rehearses": "mine",
    "models": ["network.base_channels=8", "training.steps=2", "wandb.mode=disabled"],
    "budgets": {"sampler.steps": 3, "sampler.tolerance": "1e-1"},
    "samples": 6,
    "shard_size": 4,
    "batch_size": 2,
}


@pytest.fixture
def mine_file(configs) -> Path:
    """Write a grid with an imported model, a guide, a figure and a band."""
    path = configs / "grid" / "mine.yaml"
    content = changed("models/cld", {"overrides": ["process=cld"], "checkpoint": "official.ckpt"})
    content["guides"] = {"guide": ["dataset=digits", "process=psld", "wandb.mode=disabled"]}
    content["figures"] = {"picture": "cld/em-10"}
    content["tables"]["steps"]["band"] = {"absolute": 0.1, "relative": 0.1, "reason": "A test."}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def write(mine_file: Path, **changes: Any) -> None:
    mine_file.with_name("small.yaml").write_text(yaml.safe_dump(REHEARSAL | changes))


def test_model_of_another_grid_is_rehearsed_without_its_source(mine_file):
    content = changed("models/tuned", {"starts_from": "psld", "overrides": ["process=psld"]})
    mine_file.with_name("other.yaml").write_text(yaml.safe_dump(content))
    mine_file.write_text(yaml.safe_dump(changed("models/tuned", {"of": "other"})))
    write(mine_file)
    assert load_grid("mine").models["tuned"].settings.init.model.name == "models/other/psld"
    assert load_grid("small").models["tuned"].settings.init is None


def test_rehearsal_has_all_models_and_cells_at_a_tiny_size(mine_file):
    write(mine_file)
    small, whole = load_grid("small"), load_grid("mine")
    assert list(small.cells) == list(whole.cells)
    assert {m.samples for cell in small.cells.values() for m in cell.measurements} == {6}
    assert {cell.shards for cell in small.measured_cells} == {2}
    for name, sampler in small.samplers.items():
        key, budget = ("tolerance", 0.1) if "rk45" in name else ("steps", 3)
        settings = whole.samplers[name].settings.model_copy(update={key: budget})
        assert sampler.settings == settings
    for trained in (*small.models.values(), *small.guides.values()):
        assert trained.settings.network.base_channels == 8
        assert trained.settings.training.steps == 2
    assert [grid.models["cld"].checkpoint for grid in (small, whole)] == [None, "official.ckpt"]
    assert list(small.file.tables) == [f"small-{name}" for name in whole.file.tables]
    assert list(small.file.figures) == [f"small-{name}" for name in whole.file.figures]
    for table in small.file.tables.values():
        assert table.title.startswith("Rehearsal of: ")
        assert table.band is None, "nothing counts as reproduced"
    # A change of the grid changes its rehearsal.
    mine_file.write_text(mine_file.read_text().replace("  cld:\n", "  renamed:\n", 1))
    with pytest.raises(UserError, match=r"mine\.yaml: .*'cld'"):
        load_grid("small")


def test_metric_that_needs_more_samples_is_replaced(mine_file):
    """This includes the main metric of the grid."""
    write(mine_file, metrics={load_grid("mine").file.metric: "fd-pixels"})
    assert load_grid("small").file.metric == "fd-pixels"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"rehearses": "none"}, r"none\.yaml: no such grid"),
        (
            {"models": ["network.width=8"]},
            r"small\.yaml: models\.\S+: unknown key network\.width",
        ),
        ({"budgets": {"sampler.steps": 1}}, r"small\.yaml: sampler \S+: sampler"),
        ({"tables": {}}, "unknown key tables"),
    ],
)
def test_invalid_rehearsal_is_refused_in_one_line(mine_file, changes, complaint):
    write(mine_file, **changes)
    with pytest.raises(UserError, match=complaint) as refused:
        load_grid("small")
    assert "\n" not in str(refused.value)


def test_rehearsal_keeps_a_budget_of_zero():
    family = SamplerFamily(overrides=(), budget="sampler.steps", spends=3)
    assert [family.budget_word(each) for each in ("0", "10")] == [
        "sampler.steps=0",
        "sampler.steps=3",
    ]


def test_fast_grid_samples_the_models_of_the_paper_without_training(folder, paper):
    fast = load_grid("fast")
    assert not {"train", "import"} & jobs_by_stage(fast).keys()
    pattern = workflow_of({"fast": fast, "paper": paper}).pattern("models", imported=False)
    assert "fast/" not in pattern
    for name, model in fast.models.items():
        assert model.settings == paper.models[name].settings
    table_rows = [row for table in fast.file.tables.values() for row in table.rows]
    assert [row for row in table_rows if row.paper and not row.literature] == []
