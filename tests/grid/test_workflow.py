"""The functions behind the rules: inputs, outputs and parameters of jobs."""

import re
from dataclasses import replace
from fnmatch import fnmatch
from types import SimpleNamespace
from typing import Any

import pytest

from psld.grid.records import Grid
from psld.grid.workflow import Workflow
from tests.grid.variants import file_with


def wildcards(**values: str) -> SimpleNamespace:
    return SimpleNamespace(grid="demo", **values)


def test_wildcards_name_records(workflow, demo):
    assert workflow.model(wildcards(model="demo/cld")) is demo.models["cld"]
    assert workflow.guide(wildcards(guide="demo/psld-0.02")) is demo.guides["psld-0.02"]
    cell = workflow.cell(wildcards(model="cld", sampler="em-uniform-40"))
    assert cell is demo.cells["cld/em-uniform-40"]
    digits = wildcards(dataset="digits", features="fd-classifier")
    assert workflow.dataset(digits) is demo.datasets["digits"]
    assert workflow.reference(digits) is demo.features["digits/fd-classifier"]
    assert workflow.dataset_name(digits) == "demo/digits"
    assert workflow.reference_name(digits) == "demo/digits/fd-classifier"
    assert list(demo.features) == ["digits/fd-classifier"], "five metrics share them"


def test_what_is_imported_is_not_trained(demo):
    imported = demo.models["cld"].model_copy(update={"checkpoint": "official.ckpt"})
    workflow = Workflow({"demo": replace(demo, models=demo.models | {"cld": imported})})

    def makes(kind: str, name: str) -> list[bool]:
        patterns = (workflow.pattern(kind, imported) for imported in (False, True))
        return [re.fullmatch(pattern, name) is not None for pattern in patterns]

    assert makes("models", "demo/cld") == [False, True]
    assert makes("models", "demo/psld-0.02") == makes("guides", "demo/psld-0.02") == [True, False]
    for nothing in ("demo/psld-0x02", "", "other/cld"):
        assert makes("models", nothing) == makes("guides", nothing) == [False, False]


# --- cells ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grid", "name", "inputs", "images"),
    [
        ("demo", "cld/em-quadratic-40", [], []),
        ("demo", "psld-0.02/guide-40", ["guides/demo/psld-0.02/manifest.json"], []),
        ("demo", "psld-0.02-classes/classifier-free-40", [], []),
        ("demo", "psld-0.02/inpainting-40", ["data/digits.digest"], ["data/digits.h5"]),
        (
            *("paper", "afhqv2-psld-0.01/inpaint-test-250"),
            ["data/afhqv2-128.digest", "data/mnist.digest"],
            ["data/afhqv2-128.h5", "data/mnist.h5"],
        ),
    ],
)
def test_a_cell_reads_what_guides_it(grids, grid, name, inputs, images):
    cell = grids[grid].cells[name]
    assert cell.inputs == inputs
    assert list(cell.datasets.values()) == images
    settings = cell.sample_job.settings
    assert [s for s in (settings.data, settings.mnist) if s] == images
    assert (settings.guide is not None) == ("guide" in name)


def test_a_cell_is_measured_by_all_its_metrics_at_once(paper):
    cell = paper.cells["cifar10-cld/em-uniform-1000"]
    assert cell.references == ["features/cifar10/fid/reference/manifest.json"]
    settings = cell.evaluate_job.settings
    measured = [(m.metric.name, m.samples) for m in settings.measurements]
    assert measured == [("fid", 50_000), ("fid", 10_000)]
    assert cell.shards == 50, "the many samples hold the few"
    assert settings.features["fid"].extractor is None, "only a classifier is trained"


# --- tables and figures ---------------------------------------------------------------------------


def test_a_table_reads_the_results_of_its_cells_each_once(workflow, demo):
    results = workflow.table_results(wildcards(table="demo-tolerance"))
    assert len(results) == len(set(results)) == 6, "two columns of each cell"
    assert "results/cells/demo/cld/rk45-1e-2.json" in results
    tables = (workflow.table_results(wildcards(table=table)) for table in demo.file.tables)
    assert {file for table in tables for file in table} == {c.result for c in demo.measured_cells}


def content(grid: Grid, **target: str) -> Any:
    workflow = Workflow({"demo": grid})
    if "table" in target:
        return workflow.table_content(wildcards(**target))
    return workflow.figure_content(wildcards(**target))


@pytest.mark.parametrize(
    ("changes", "changed"),
    [
        # Metric and samples complete the entries; a result may have both metrics already.
        ({"metric": "kd-classifier"}, ["demo-steps", "nfe"]),
        ({"samples": 500}, ["demo-steps", "nfe"]),
        ({"seed": 1}, ["phase-space/cld"]),
        ({"batch_size": 7}, []),
    ],
)
def test_an_option_of_the_grid_redraws_what_it_decides(demo, changes, changed):
    grid = file_with(demo, **changes)
    targets = {"demo-steps": "table", "nfe": "figure", "phase-space/cld": "figure"}
    targets["samples/cld"] = "figure"  # its record changes
    different = [
        t for t, kind in targets.items() if content(grid, **{kind: t}) != content(demo, **{kind: t})
    ]
    assert different == changed


def test_a_plot_depends_on_the_order_of_models_and_on_the_papers_numbers(demo):
    turned = replace(demo, models=dict(reversed(demo.models.items())))
    table = demo.file.tables["demo-steps"]
    first, *others = table.rows
    printed = first.model_copy(update={"paper": (3.0, 2.0)})
    tables = {"demo-steps": table.model_copy(update={"rows": (printed, *others)})}
    with_paper = file_with(demo, tables=demo.file.tables | tables)
    for figure, grids in {
        "nfe": [],
        "training": [with_paper],
        "samples/cld": [turned, with_paper],
    }.items():
        same = [
            g
            for g in (turned, with_paper)
            if content(g, figure=figure) == content(demo, figure=figure)
        ]
        assert same == grids, figure


@pytest.mark.parametrize(
    ("figure", "pattern", "count"),
    [
        ("training", "models/demo/*/history.json", 5),
        ("gamma", "results/cells/demo/*.json", 24),
        ("phase-space/cld", "models/demo/cld/manifest.json", 1),
        ("samples/cld", "samples/demo/cld/em-quadratic-40/00000-00003.json", 1),
        ("samplers/psld-0.02", "samples/demo/psld-0.02/*.json", 10),
        ("models/digits", "samples/demo/*/em-quadratic-40/*.json", 5),
        ("demo-guide", "samples/demo/psld-0.02/guide-40/00000-00003.json", 1),
    ],
)
def test_a_figure_reads_small_files(workflow, figure, pattern, count):
    inputs = workflow.figure_inputs(wildcards(figure=figure))
    assert all(fnmatch(file, pattern) for file in inputs), inputs
    assert len(inputs) == len(set(inputs)) == count
    assert workflow.figure_images(wildcards(figure=figure)) == []
