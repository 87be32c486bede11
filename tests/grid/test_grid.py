"""Grid files: the cells of their entries, their models, samplers and figures."""

from psld.config.settings import parse
from psld.grid.names import seeded
from psld.grid.reading import read_grid_file
from psld.grid.schema import GridFile
from psld.grid.tables import Claim, EntryPart
from tests.grid.mine import CONTENT, TEXT, changed, load


def test_column_overrides_row_and_row_overrides_table():
    content = changed("tables/steps/columns/1", {"label": "QS", "sampler": "em{kind}"})
    content["tables"]["steps"]["rows"][0]["fields"] = {"kind": "-quadratic"}  # for {kind}
    content["tables"]["steps"]["rows"].pop(1)
    file = parse(GridFile, content, where="mine")
    shown = {
        name: [(entry.cell, entry.samples) for entry in rows[0]]
        for name, rows in file.shown.items()
    }
    few, all_of_them = ("vp-sde/rk45-1e-2", 50), ("vp-sde/rk45-1e-2", 100)
    assert shown == {
        "steps": [("psld/em-10", 100), ("psld/em-quadratic-10", 100)],
        "tolerance": [few, all_of_them, all_of_them],
    }
    assert [entry.model for entry in file.shown["steps"][-1]] == [None, None], "literature"
    plain = parse(GridFile, changed("tables/tolerance/rows/0/budget", 0.001), where="mine")
    assert plain.shown["tolerance"][0][0].cell == "vp-sde/rk45-0.001"


def test_cell_has_a_model_a_sampler_a_seed_and_measurements(configs):
    grid = load(configs)
    assert list(grid.cells) == [
        *("psld/em-10", "psld/em-20", "psld/em-quadratic-10", "psld/em-quadratic-20"),
        *("vp-sde/rk45-1e-2", "vp-sde/em-10"),
    ], "in the order of the tables, each once; the last is only shown"
    cell = grid.cells["psld/em-quadratic-20"]
    assert cell.records == ["samples/mine/psld/em-quadratic-20/00000-00003.json"]
    assert (cell.model, cell.seed) == (grid.models["psld"], 0)
    assert (cell.sampler.family, cell.sampler.budget) == ("em-quadratic", "20")
    assert (cell.sampler.settings.steps, cell.sampler.settings.striding) == (20, "quadratic")
    assert grid.samplers["rk45-1e-2"].settings.tolerance == 0.01
    measured = [(m.metric.name, m.samples) for m in grid.cells["psld/em-10"].measurements]
    assert measured == [("fd-classifier", 100), ("fd-classifier", 50)]
    shards = {name: cell.shards for name, cell in grid.cells.items()}
    assert shards.pop("vp-sde/em-10") == 1, "it is shown, and no table has it"
    assert set(shards.values()) == {4}, "the many samples hold the few"
    assert (list(grid.metrics), list(grid.datasets)) == (["fd-classifier"], ["digits"])


def test_overrides_of_a_model_follow_the_defaults(configs):
    own = ["process=psld", "training.steps=9", "data=data/own.hdf5"]
    official = {"overrides": own, "checkpoint": "official.ckpt"}
    models = load(configs, changed("models/psld", official)).models
    assert [model.settings.training.steps for model in models.values()] == [7, 9]
    assert models["psld"].dataset_digest == "data/own.digest", "as psld prepare names it"
    assert [model.settings.process.kind for model in models.values()] == ["vp-sde", "psld"]
    assert [model.checkpoint for model in models.values()] == [None, "official.ckpt"]
    assert [model.folder for model in models.values()] == ["models/mine/vp-sde", "models/mine/psld"]


def test_key_overrides_a_merged_mapping(tmp_path):
    """A key after `<<` of YAML is not a duplicate key."""
    extra = "  low: &low {overrides: [sampler=em], budget: sampler.steps}\n"
    extra += "  high: {<<: *low, budget: sampler.final_time}\n"
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT.replace("samplers:\n", f"samplers:\n{extra}"))
    assert read_grid_file(path).samplers["high"].budget == "sampler.final_time"


def test_side_overrides_the_cell_of_its_claim():
    cell = {"model": "a", "sampler": "em", "budget": 1}
    sides = {"smaller": {"model": "b"}, "larger": {"budget": 2}}
    claim = Claim.model_validate({"claim": "c", "cell": cell, **sides})
    [(_, smaller, larger)] = claim.pairs(EntryPart(metric="fid", samples=4, show="value"))
    assert (smaller.cell, larger.cell, larger.samples) == ("b/em-1", "a/em-2", 4)


def test_longest_sampler_name_is_matched_and_first_seed_is_not_named():
    file = parse(GridFile, CONTENT, where="mine")
    assert file.split("em-quadratic-10") == ("em-quadratic", "10")
    assert (file.split("em-10"), file.split("sscs-10")) == (("em", "10"), None)
    assert [seeded("psld", seed, first=3) for seed in (0, 3, 7)] == [
        *("psld-seed0", "psld", "psld-seed7"),
    ]
