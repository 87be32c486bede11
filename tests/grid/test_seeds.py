"""Seeds of a grid multiply its models and cells, but not its figures."""

import pytest

from psld.grid.cells import Grid
from psld.grid.figures import all_figures, nfe_lines, trained_models
from psld.grid.rows import entries_in
from psld.report.plan import jobs_by_stage
from tests.grid.mine import grid_in, load, with_models, written_once

OFFICIAL = {"overrides": ["process=cld"], "checkpoint": "official.ckpt"}
CONTENT = with_models({"psld": ["process=psld"], "official": OFFICIAL})


@pytest.fixture(scope="module")
def grid(once) -> Grid:
    seeds = {"training": [0, 1, 2], "sampling": [0, 7]}
    return grid_in(written_once(once, "of-seeds", CONTENT | {"seeds": seeds}))


def test_models_are_trained_once_per_seed(grid):
    assert list(grid.models) == ["psld", "psld-seed1", "psld-seed2", "official"]
    assert [m.settings.training.seed for m in grid.models.values()] == [0, 1, 2, 0]
    jobs = jobs_by_stage(grid)
    assert (jobs["train"], jobs["import"]) == (3, 1), "nothing is trained again with a checkpoint"


def test_cells_are_multiplied_by_both_seeds(grid):
    assert len(grid.measured_cells) == 2 * (3 * 2 + 2)
    cells = next(entries_in(grid)).cells
    assert [cell.name for cell in cells] == [
        *("psld/em-10", "psld/em-10-seed7", "psld-seed1/em-10", "psld-seed1/em-10-seed7"),
        *("psld-seed2/em-10", "psld-seed2/em-10-seed7"),
    ]
    assert [cell.seed for cell in cells] == [0, 7] * 3
    assert {cell.sampler.budget for cell in cells} == {"10"}
    assert cells[-1].sample_job.settings.seed == 7
    assert cells[-1].result == "results/cells/mine/psld-seed2/em-10-seed7.json"


def test_additional_seeds_keep_existing_digests(configs, grid):
    before, after = load(configs, CONTENT).cells, grid.cells
    for name, cell in before.items():
        assert (after[name].digest, after[name].records) == (cell.digest, cell.records)
    assert len({cell.digest for cell in after.values()}) == len(after) > len(before)


def test_figures_show_the_first_seed(grid):
    assert {
        cell.seed for figure in all_figures(grid).values() for cell in figure.cells.values()
    } == {0}
    assert trained_models(grid) == ["psld"]
    [panel] = nfe_lines(grid)
    assert {name: len(line) for name, line in panel.lines.items()} == {"psld": 2, "official": 2}
