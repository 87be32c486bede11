"""The functions behind the rules: inputs, outputs and parameters of jobs."""

import re
from fnmatch import fnmatch
from types import SimpleNamespace

import pytest

from tests.grid.mine import file_with, workflow_of


def wildcards(**values: str) -> SimpleNamespace:
    return SimpleNamespace(grid="demo", **values)


def test_what_is_imported_is_not_trained(demo):
    imported = demo.file.models["cld"].model_copy(update={"checkpoint": "official.ckpt"})
    workflow = workflow_of({"demo": file_with(demo, models=demo.file.models | {"cld": imported})})

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


# --- tables and figures ---------------------------------------------------------------------------


def test_a_table_reads_the_results_of_its_cells_each_once(workflow):
    results = workflow.table_results(wildcards(table="demo-tolerance"))
    assert len(results) == len(set(results)) == 2, "two columns of each cell"
    assert "results/cells/demo/vp-sde/rk45-1e-2.json" in results


@pytest.mark.parametrize(
    ("figure", "pattern", "count"),
    [
        ("training", "models/demo/*/history.json", 5),
        ("gamma", "results/cells/demo/*.json", 6),
        ("samples/cld", "samples/demo/cld/em-quadratic-40/00000-00003.json", 1),
        ("samplers/psld-0.02", "samples/demo/psld-0.02/*.json", 7),
        ("models/digits", "samples/demo/*/em-quadratic-40/*.json", 7),
        ("demo-guide", "samples/demo/psld-0.02/guide-40/00000-00003.json", 1),
    ],
)
def test_a_figure_reads_small_files_and_training_images(workflow, figure, pattern, count):
    record = workflow.figure(wildcards(figure=figure))
    inputs = record.inputs
    assert all(fnmatch(file, pattern) for file in inputs), inputs
    assert len(inputs) == len(set(inputs)) == count
    assert record.datasets == ([] if figure in ("training", "gamma") else ["data/digits.h5"])
