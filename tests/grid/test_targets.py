"""The targets of the workflow: their names, their files, and words that are none."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

from psld.config.locations import config_names
from psld.grid.workflow import Workflow
from psld.utils.errors import UserError
from psld.utils.files import write_json
from tests.grid.mine import TEXT, file_with, workflow_of

CELL = "results/cells/demo/cld/em-quadratic-40.json"


def test_grids_tables_and_figures_are_targets(workflow, demo):
    targets = workflow.targets
    figures = {"demo-guide", "demo-inpainting-images", "figure3-cifar10"}
    assert {"demo", "paper", *demo.file.tables, *figures, "table1"} <= set(targets)
    assert not [name for name in targets if "/" in name], "no cell"
    table, figure = "results/tables/demo/demo-steps", "results/figures/demo/demo-guide"
    formats = ("md", "csv", "tex", "html")
    assert workflow.target_files("demo-steps") == [f"{table}.{ending}" for ending in formats]
    assert workflow.target_files("demo-guide") == [f"{figure}.{end}" for end in ("png", "svg")]
    whole = workflow.target_files("demo")
    assert len(whole) == len(set(whole))
    assert {cell.result for cell in demo.measured_cells} < set(whole)
    assert {"results/demo.html", "results/certificates/demo.zip"} < set(whole)
    parts = workflow.page_parts(SimpleNamespace(grid="demo"))
    assert {*demo.results, f"{table}.html", f"{figure}.png"} < set(parts)
    assert {f"{table}.csv", "results/figures/demo/samples/cld.png"} < set(whole)


def test_a_cell_is_a_target_if_it_is_asked_for(grids, demo):
    """Its result or, if no table shows it, its images. Snakemake checks all other words."""
    others = ["all", "demo", "demo-steps", "x/own.txt", CELL, "demo/cld/em-quadratic-41", "demo-x"]
    workflow = workflow_of(grids)
    workflow.rules = {"all"}
    assert workflow.cells_among(others) == {}
    word = "demo/cld/em-quadratic-40"
    assert workflow.cells_among([word]) == {word: [CELL]}
    shown = {f"demo/{c.name}": c.records for c in demo.cells.values() if not c.measurements}
    assert workflow.cells_among(shown) == shown != {}


def test_files_that_grids_share_are_of_some_grid(workflow):
    assert workflow.word("datasets", "digits") == "demo/digits"
    assert workflow.word("features", "digits/fd-classifier") == "demo/digits/fd-classifier"
    for kind, name in ("datasets", "emoji-16"), ("features", "digits/kid"):
        with pytest.raises(UserError, match="no grid has these"):
            workflow.word(kind, name)


def test_what_is_imported_is_not_trained(demo, tmp_path, monkeypatch):
    """No job makes what was imported by hand."""
    monkeypatch.chdir(tmp_path)
    for folder in ("models/demo/vp-sde", "guides/demo/psld-0.02"):
        write_json(tmp_path / folder / "manifest.json", {"imported": {"file": "official.ckpt"}})
    write_json(tmp_path / "models/demo/psld-0.02/manifest.json", {"imported": None})
    imported = demo.file.models["cld"].model_copy(update={"checkpoint": "official.ckpt"})
    workflow = workflow_of({"demo": file_with(demo, models=demo.file.models | {"cld": imported})})

    def makes(kind: str, name: str) -> list[bool]:
        patterns = (workflow.pattern(kind, imported) for imported in (False, True))
        return [re.fullmatch(pattern, name) is not None for pattern in patterns]

    assert makes("models", "demo/cld") == [False, True]
    assert makes("models", "demo/psld-0.02") == [True, False]
    assert makes("models", "demo/vp-sde") == makes("guides", "demo/psld-0.02") == [False, False]
    for nothing in ("demo/psld-0x02", "", "other/cld"):
        assert makes("models", nothing) == makes("guides", nothing) == [False, False]


def test_a_table_reads_the_results_of_its_cells_each_once(workflow):
    wildcards = SimpleNamespace(grid="demo", table="demo-tolerance")
    results = workflow.table_results(wildcards)
    assert len(results) == len(set(results)) == 2, "two columns of each cell"
    assert "results/cells/demo/vp-sde/rk45-1e-2.json" in results


def test_a_copy_runs_and_takes_no_name(grids, demo, paper):
    """Nor does a table with the name of a rule or of a grid, or a grid with that of a rule."""
    tables = demo.file.tables | dict.fromkeys(("train", "paper"), demo.file.tables["demo-steps"])
    copied = {"a-copy": file_with(demo, tables=tables), "all": demo, "b-copy": paper}
    copies = {name: replace(grid, name=name) for name, grid in copied.items()}
    plain, workflow = workflow_of(grids), workflow_of(copies | grids)
    workflow.rules = {"train", "all"}
    names = {"a-copy": "a-copy", "b-copy": "b-copy"}
    of_paper = {*paper.file.tables, *paper.file.figures}
    kept = {name: grid for name, grid in plain.targets.items() if name not in of_paper}
    assert workflow.targets == kept | names, "no name begins with `paper`"
    for name in ("paper", "demo", "demo-steps", "demo-guide"):
        assert workflow.target_files(name) == plain.target_files(name)
    assert "results/tables/a-copy/demo-steps.md" in workflow.target_files("a-copy")
    assert workflow.cells_among(["all", "train", "a-copy", "demo-steps"]) == {}
    with pytest.raises(UserError, match=r"table1: several grids have this name; .*/paper/table1\."):
        workflow.cells_among(["table1"])


def test_a_dataset_is_of_the_grid_that_was_asked_for(configs):
    """Another grid may name it, and need not resolve; this one has it from a config."""
    (configs / "grid/demo.yaml").write_text(TEXT.replace("dataset=digits, ", ""))
    (configs / "grid/draft.yaml").write_text(TEXT.replace("process=vp-sde", "process=none"))
    workflow = Workflow.load()
    assert workflow.grid("demo")
    assert workflow.word("datasets", "digits") == "demo/digits"
    assert list(workflow.grids) == ["demo"]


def test_a_grid_that_does_not_resolve_stops_only_those_who_ask_for_it(configs):
    others = set(config_names("grid")) - {"demo"} | {"another"}
    for name in others:
        (configs / f"grid/{name}.yaml").write_text("half: written")
    (configs / "grid/demo.yaml").write_text(TEXT)
    (configs / "grid/draft.yaml").write_text("models: {mine: [process=")
    workflow = Workflow.load()
    error = str(workflow.broken["draft"])
    assert error.startswith(f"{configs}/grid/draft.yaml: not valid YAML")
    assert workflow.broken.keys() == {*others, "draft"}
    assert list(workflow.files) == ["demo"]
    with pytest.raises(UserError, match="no grid has these datasets; make them by hand with"):
        workflow.word("datasets", "nothing")
    assert not workflow.grids, "nothing is resolved before it is asked for"
    assert workflow.default == "demo"
    # A model of another grid may have its name.
    workflow.broken["psld"] = workflow.broken["draft"]
    workflow.cells_among(["demo", "steps", "demo/psld/em-10"])
    assert list(workflow.grids) == ["demo"]
    workflow.rules = {"all"}
    with pytest.raises(UserError, match=r"paper\.yaml: "):
        workflow.cells_among(["all"])
    for word in ("draft", "draft/mine/em-10"):
        with pytest.raises(UserError, match=r"draft\.yaml: not valid YAML"):
            workflow.cells_among([word])
    (configs / "grid/demo.yaml").write_text("half: written")
    assert Workflow.load().default == "demo", "never another grid, which may take weeks"
