"""Seeds of a grid: models and cells are multiplied, figures are not."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from benchmarks.small import main as compare_small
from psld.config.settings import parse
from psld.grid.figures import figures_of, nfe_panels, trained_models
from psld.grid.plan import jobs_of
from psld.grid.resolved import Grid
from psld.grid.schema import GridFile
from psld.grid.workflow import Workflow
from psld.report.style import model_looks
from psld.utils.errors import UserError
from tests.results import write_grid

CONTENT: dict[str, Any] = yaml.safe_load("""
defaults: [dataset=digits, network=demo, training=demo]
metric: fd-classifier
samples: 100
shard_size: 100
batch_size: 100
gallery: em-10
seeds: {training: [0, 1, 2], sampling: [0, 7]}
models:
  psld: [process=psld]
  official: {overrides: [process=psld], checkpoint: official.ckpt}
samplers: {em: {overrides: [sampler=em], budget: sampler.steps}}
tables:
  mine-all:
    title: Mine
    headings: [model]
    cell: {sampler: em}
    columns: [{label: "10", budget: 10}, {label: "20", budget: 20}]
    rows: [{label: [PSLD], model: psld}, {label: [official], model: official}]
""")


@pytest.fixture(scope="module")
def grid(tmp_path_factory) -> Grid:
    return write_grid(tmp_path_factory.mktemp("seeds"), CONTENT)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Grid:
    content = {key: value for key, value in CONTENT.items() if key != "seeds"}
    return write_grid(tmp_path_factory.mktemp("plain"), content)


def test_models_are_trained_once_for_each_seed(grid):
    assert list(grid.models) == ["psld", "psld-seed1", "psld-seed2", "official"]
    seeds = [grid.models[name].settings["training"]["seed"] for name in list(grid.models)[:3]]
    assert seeds == [0, 1, 2]
    assert jobs_of(grid)["train"] == 3
    assert jobs_of(grid)["import"] == 1, "nothing is trained again with a checkpoint"


def test_cells_are_multiplied_by_both_seeds(grid):
    assert len(grid.cells) == 2 * (3 * 2 + 2)
    of_psld = [cell for cell in grid.cells if cell.startswith("psld") and "em-10" in cell]
    assert of_psld[:3] == ["psld/em-10", "psld/em-10-seed7", "psld-seed1/em-10"]
    assert grid.samplers["em-10"].settings == grid.samplers["em-10-seed7"].settings
    assert (grid.file.seed_of("em-10"), grid.file.seed_of("em-10-seed7")) == (0, 7)
    workflow = Workflow({"mine": grid})
    assert workflow.sampling_params("mine", "em-20-seed7")["seed"] == 7
    results = workflow.results_of_tables("mine", "mine-all")
    assert "results/cells/mine/psld-seed2/em-20-seed7.json" in results
    assert len(results) == 16


def test_the_first_seeds_change_nothing_that_is_there(grid, plain):
    """More seeds do not train or sample again what has been trained and sampled."""
    for model in plain.models:
        assert grid.models[model].settings == plain.models[model].settings
    assert set(plain.cells) < set(grid.cells)
    workflows = [Workflow({"mine": one}) for one in (plain, grid)]
    for cell in plain.cells:
        sampler = cell.partition("/")[2]
        before, after = (workflow.sampling_params("mine", sampler) for workflow in workflows)
        assert before == after
        before, after = (workflow.records_of_cell("mine", cell) for workflow in workflows)
        assert before == after


def test_figures_show_the_first_seed_and_all_seeds_look_the_same(grid, plain):
    assert figures_of(grid) == figures_of(plain)
    assert trained_models(grid) == ["psld"]
    [panel] = nfe_panels(grid)
    assert {name: len(line) for name, line in panel.lines.items()} == {"psld": 2, "official": 2}
    looks = model_looks(grid)
    assert looks["psld-seed2"] == looks["psld"] != looks["official"]


@pytest.mark.parametrize(
    ("seeds", "complaint"),
    [
        ({"sampling": [1, 2]}, "seeds.sampling: its first is seed, which is 0"),
        ({"training": [1, 1]}, "seeds.training: each seed only once, not 1, 1"),
        ({"training": [-1]}, "seeds.training.0"),
        ({"trainings": [1]}, "unknown key seeds.trainings"),
    ],
)
def test_wrong_seeds_are_refused(seeds, complaint):
    with pytest.raises(UserError, match=complaint):
        parse(GridFile, CONTENT | {"seeds": seeds}, where="mine")


def test_a_model_with_the_name_of_a_seed_is_refused():
    content = copy.deepcopy(CONTENT)
    content["models"]["psld-seed1"] = ["process=psld"]
    with pytest.raises(UserError, match=r"seeds.training: two models are called psld-seed1"):
        parse(GridFile, content, where="mine")


def test_the_comparisons_of_a_grid_that_has_not_run_are_one_line(monkeypatch, capsys):
    evaluation = SimpleNamespace(metric="fid", samples=3)
    file = SimpleNamespace(replicates=lambda _: [])
    small = SimpleNamespace(name="small", file=file, evaluations=[evaluation], samplers=["em-1"])
    monkeypatch.setattr("benchmarks.small.load_grid", {"small": small}.get)
    with pytest.raises(SystemExit, match=r"^2$"):
        compare_small()
    line = "error: results/cells/small/psld-0.02/em-1.json: no result; run make small first\n"
    assert capsys.readouterr() == ("", line)
