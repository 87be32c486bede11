"""Grid files: the cells of their entries, the composed settings, figures and jobs."""

from typing import Any

import pytest

from psld.config.locations import CONFIGS
from psld.config.settings import parse
from psld.grid.loading import expand_guide, expand_model, load_grid
from psld.grid.schema import GridFile
from psld.utils.errors import UserError
from tests.grid.mine import CONTENT, changed, load

GRIDS = sorted(path.stem for path in (CONFIGS / "grid").glob("*.yaml"))


def table_of(content: dict[str, Any], table: str) -> list[list[tuple[str, int] | None]]:
    """The cell and the number of samples behind each entry of a table; nothing is composed."""
    file = parse(GridFile, content, where="mine")
    evaluations = [[place.evaluation for place in row] for row in file.places[table]]
    return [[e and (e.cell, e.samples) for e in row] for row in evaluations]


def test_table_row_and_column_make_an_entry_and_the_last_prevails():
    assert table_of(CONTENT, "steps") == [
        [("psld/em-10", 100), ("psld/em-20", 100)],
        [("psld/em-quadratic-10", 100), ("psld/em-quadratic-20", 100)],
        [None, None],
    ]
    few, all_of_them = ("vp-sde/rk45-1e-2", 50), ("vp-sde/rk45-1e-2", 100)
    assert table_of(CONTENT, "tolerance")[0] == [few, all_of_them, all_of_them]


def test_fields_of_a_row_complete_names():
    content = changed("tables/steps/columns/1", {"label": "QS", "sampler": "em{kind}"})
    content["tables"]["steps"]["rows"][0]["fields"] = {"kind": "-quadratic"}
    content["tables"]["steps"]["rows"].pop(1)
    assert table_of(content, "steps")[0] == [("psld/em-10", 100), ("psld/em-quadratic-10", 100)]


def test_cells_come_in_the_order_of_the_tables_each_once(configs):
    grid = load(configs)
    assert grid.cells == [
        "psld/em-10",
        "psld/em-20",
        "psld/em-quadratic-10",
        "psld/em-quadratic-20",
        "vp-sde/rk45-1e-2",
    ]
    assert len(set(grid.evaluations)) == len(grid.evaluations) == 7
    of_cell = grid.evaluations_by_cell["psld/em-10"]
    assert [e.samples for e in of_cell] == [100, 50], "in the order of the tables"
    assert grid.shards["psld/em-10"] == 4, "the many samples hold the few"
    assert grid.shards["psld/em-20"] == 4
    assert grid.shards["vp-sde/em-10"] == 1, "it is shown, and stands in no table"
    assert list(grid.metrics) == ["fd-classifier"]
    assert list(grid.datasets) == ["digits"]


def test_a_sampler_is_its_family_completed_by_the_budget(configs):
    samplers = load(configs).samplers
    assert samplers["em-20"].settings["steps"] == 20
    assert samplers["em-20"].settings["striding"] == "uniform"
    assert samplers["em-quadratic-20"].settings["striding"] == "quadratic"
    assert samplers["rk45-1e-2"].settings["tolerance"] == 0.01
    assert samplers["rk45-1e-2"].overrides == ("sampler=rk45", "sampler.tolerance=1e-2")


def test_the_family_with_the_longest_name_is_meant():
    file = parse(GridFile, CONTENT, where="mine")
    assert file.family_of("em-quadratic-10") == "em-quadratic"
    assert file.family_of("em-10") == "em"


def test_a_model_s_own_overrides_come_after_those_of_all(configs):
    models = load(configs).models
    assert models["vp-sde"].settings["training"]["steps"] == 7
    assert models["psld"].settings["training"]["steps"] == 9
    assert models["psld"].overrides[:4] == tuple(CONTENT["defaults"])
    assert tuple(models[name].settings["process"]["kind"] for name in ("vp-sde", "psld")) == (
        "vp-sde",
        "psld",
    )
    assert (models["psld"].dataset, models["psld"].checkpoint) == ("digits", None)


def test_a_model_may_name_an_official_checkpoint(configs):
    entry = {"overrides": ["process=psld"], "checkpoint": "official.ckpt"}
    models = load(configs, changed("models/psld", entry)).models
    assert models["psld"].checkpoint == "official.ckpt"


def test_a_figure_may_have_parts(configs):
    figures = {"whole": {"a": "vp-sde/em-10", "b": "vp-sde/em-20"}, "alone": "vp-sde/em-10"}
    file = load(configs, changed("figures", figures)).file
    assert file.pictures == {
        "whole-a": "vp-sde/em-10",
        "whole-b": "vp-sde/em-20",
        "alone": "vp-sde/em-10",
    }
    assert file.figure_targets == {
        "whole": ["whole-a", "whole-b"],
        **{picture: [picture] for picture in file.pictures},
    }


def test_jobs_make_ranges_of_shards(configs):
    """Seven shards of 30 samples."""
    grid = load(configs, changed("samples", 200) | {"shards_per_job": 3})
    assert grid.shards["psld/em-10"] == 7
    assert grid.ranges_of("psld/em-10") == [(0, 2), (3, 5), (6, 6)]


def test_the_shards_of_a_job_change_no_settings_of_a_cell(configs):
    few, many = (load(configs, CONTENT | {"shards_per_job": n}) for n in (1, 100))
    assert len(few.ranges_of("psld/em-10")) == 4
    assert many.ranges_of("psld/em-10") == [(0, 3)]
    assert few.samplers == many.samplers
    assert few.shards == many.shards


def test_a_model_and_a_guide_of_a_grid_stand_for_their_overrides(configs):
    content = CONTENT | {"guides": {"g": ["dataset=digits", "process=cld"]}}
    load(configs, content)
    assert expand_model(["training.steps=3", "model=mine/psld"]) == [
        *CONTENT["defaults"],
        *CONTENT["models"]["psld"],
        *("grid_name=mine", "name=psld", "training.steps=3"),
    ]
    own = ["dataset=digits", "process=cld", "grid_name=mine", "name=g"]
    assert expand_guide(["guide=mine/g"]) == own
    assert expand_model(["training.steps=3"]) == ["training.steps=3"]
    with pytest.raises(UserError, match=r"mine/other: no such model .* vp-sde, psld"):
        expand_model(["model=mine/other"])
    with pytest.raises(UserError, match=r"mine/psld: no such guide .*: g$"):
        expand_guide(["guide=mine/psld"])


@pytest.mark.parametrize("name", GRIDS)
def test_the_project_s_own_grids_load(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    grid = load_grid(name)
    assert {evaluation.model for evaluation in grid.evaluations} <= set(grid.models)
    shown = {cell.split("/")[1] for cell in grid.file.pictures.values()}
    assert {evaluation.sampler for evaluation in grid.evaluations} | shown == set(grid.samplers)
    assert all(grid.file.evaluations_in(table) for table in grid.file.tables)
