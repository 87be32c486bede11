"""The targets of the workflow: their names, their files, and words that are none."""

import re
import time

import pytest

from psld.grid.workflow import Workflow
from psld.utils.errors import UserError
from tests.grid.variants import file_with, large_grid


def test_grids_tables_and_figures_are_targets(workflow, demo):
    targets = workflow.targets()
    figures = {"demo-guide", "demo-classifier-free", "demo-inpainting-images"}
    assert {"demo", "paper", *demo.file.tables, *figures, "table1", "figure3"} <= set(targets)
    assert not [name for name in targets if "/" in name], "no cell"
    assert targets["demo-steps"] == [
        f"results/tables/demo/demo-steps.{ending}" for ending in ("md", "csv", "tex", "html")
    ]
    assert targets["demo-guide"] == [
        f"results/figures/demo/demo-guide.{ending}" for ending in ("png", "svg")
    ]
    assert set(targets["figure3"]) > set(targets["figure3-cifar10"])


def test_a_whole_grid_is_its_tables_figures_and_results(workflow, demo):
    files = workflow.files_of_grid("demo")
    assert len(files) == len(set(files))
    assert {f"results/cells/demo/{cell}.json" for cell in demo.cells} < set(files)
    assert {"results/tables/demo/demo-steps.csv", "results/figures/demo/samples/cld.png"} < set(
        files
    )


def test_a_cell_is_a_target_if_the_command_line_names_it(workflow):
    words = [
        "snakemake",
        "--cores",
        "all",
        "demo/cld/rk45-1e-2",
        "demo/cld/none",
        "x/cld/rk45-1e-2",
    ]
    assert workflow.cells_among(words) == {
        "demo/cld/rk45-1e-2": "results/cells/demo/cld/rk45-1e-2.json"
    }
    assert workflow.cells_among(["snakemake", "demo", "demo-steps"]) == {}


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("demo/cld/em-uniform-41", "the nearest are: demo/cld/em-uniform-40"),
        ("demo-step", "the nearest are: demo-steps"),
        ("results/cells/demo/none/em-uniform-40.json", "results/cells/demo/cld/em-uniform-40.json"),
        ("nothing.txt", "no such target; psld plan grid_name=NAME list=cells"),
    ],
)
def test_a_wrong_target_is_named_with_the_nearest_ones(workflow, word, complaint):
    right = ["results/cells/demo/cld/em-uniform-40.json", "models/demo/cld/manifest.json"]
    makes = {*right, "results/cells/demo/none/em-uniform-40.json"}.__contains__
    workflow.check_targets(right, makes)
    with pytest.raises(UserError, match=f"^{re.escape(word)}: no such target.*") as refused:
        workflow.check_targets([*right, word], makes)
    assert complaint in str(refused.value)


@pytest.mark.parametrize(
    ("taken", "complaint"),
    [
        ("train", "train: the name is taken"),
        ("all", "all: the name is taken"),
        ("paper", "paper: the name is taken"),
        ("demo", "demo: the name is taken"),
        ("table1", "table1: the name is taken"),
        ("figure1", "figure1: the name is taken"),
        ("demo-guide", "demo-guide: the name is taken"),
    ],
)
def test_two_targets_of_one_name_are_refused(grids, demo, taken, complaint):
    tables = demo.file.tables | {taken: demo.file.tables["demo-steps"]}
    twice = {**grids, "demo": file_with(demo, tables=tables)}
    with pytest.raises(UserError, match=complaint) as refused:
        Workflow(twice).check_names(["train", "all"])
    assert re.search(r"call it \w+-\w+", str(refused.value))


def test_ten_thousand_cells_make_no_target_each(demo):
    grid = large_grid(demo, models=100, budgets=100)
    assert len(grid.cells) == 10_000
    started = time.process_time()
    workflow = Workflow({"demo": grid})
    assert set(workflow.targets()) == {"demo", "demo-large"}
    name = f"demo/model-42/{grid.cells[4242].partition('/')[2]}"
    assert workflow.cells_among([name]) == {name: f"results/cells/{name}.json"}
    assert time.process_time() - started < 10
