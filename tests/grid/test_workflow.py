"""The functions behind the rules: inputs, outputs and dependencies of jobs."""

import re
from fnmatch import fnmatch

import pytest

from psld.grid.resolved import Grid
from psld.grid.workflow import Workflow
from psld.utils.errors import UserError
from tests.grid.variants import file_with, grid_with


@pytest.mark.parametrize("name", ["my grid", "$(id)", "10"])
def test_files_of_configs_have_plain_names(demo, name):
    with pytest.raises(UserError, match=r"configs/grid: grid .*: a name begins with a letter"):
        Workflow({name: demo})
    datasets = grid_with(demo, datasets={name: next(iter(demo.datasets.values()))})
    with pytest.raises(UserError, match=r"configs/dataset: dataset .*: a name begins"):
        Workflow({"demo": datasets})


# --- models and guides ----------------------------------------------------------------------------


def test_models_and_guides_are_found_by_their_names(workflow, demo):
    assert workflow.trained("models", "demo/cld") is demo.models["cld"]
    assert workflow.trained("guides", "demo/psld-0.02") is demo.guides["psld-0.02"]


def test_what_is_imported_is_not_trained(demo):
    imported = demo.models["cld"].model_copy(update={"checkpoint": "official.ckpt"})
    grid = grid_with(demo, models=demo.models | {"cld": imported})
    workflow = Workflow({"demo": grid})
    trained = re.compile(workflow.name_pattern("models", imported=False))
    of_others = re.compile(workflow.name_pattern("models", imported=True))
    assert of_others.fullmatch("demo/cld")
    assert not trained.fullmatch("demo/cld")
    assert trained.fullmatch("demo/psld-0.02")
    assert not trained.fullmatch("demo/psld-0x02"), "a dot is a dot"
    assert not of_others.fullmatch("demo/psld-0.02")
    nothing = re.compile(workflow.name_pattern("guides", imported=True))
    assert not nothing.match("")
    assert not nothing.match("demo/psld-0.02")


# --- sampling -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grid", "model", "sampler", "inputs", "images"),
    [
        ("demo", "cld", "em-quadratic-40", [], []),
        ("demo", "psld-0.02", "guide-40", ["guides/demo/psld-0.02/manifest.json"], []),
        ("demo", "psld-0.02-classes", "classifier-free-40", [], []),
        ("demo", "psld-0.02", "inpainting-40", ["data/digits.digest"], ["data/digits.h5"]),
        (
            *("paper", "afhqv2-psld-0.01", "inpaint-test-250"),
            ["data/afhqv2-128.digest", "data/mnist.digest"],
            ["data/afhqv2-128.h5", "data/mnist.h5"],
        ),
    ],
)
def test_sampling_reads_what_guides_it(workflow, grid, model, sampler, inputs, images):
    assert workflow.inputs_of_sampling(grid, model, sampler) == inputs
    assert workflow.images_of_sampling(grid, model, sampler) == images


def test_a_cell_has_a_record_for_each_job_that_samples_it(demo):
    folder = "samples/demo/cld/em-quadratic-40"
    for size, names in {
        1: ["00000-00000", "00001-00001", "00002-00002", "00003-00003"],
        3: ["00000-00002", "00003-00003"],
        10: ["00000-00003"],
    }.items():
        workflow = Workflow({"demo": file_with(demo, shards_per_job=size)})
        records = workflow.records_of_cell("demo", "cld/em-quadratic-40")
        assert records == [f"{folder}/{name}.json" for name in names]


def test_only_what_decides_images_makes_other_shards(demo):
    def params(grid: Grid) -> dict:
        return Workflow({"demo": grid}).sampling_params("demo", "em-quadratic-40")

    before = params(demo)
    assert before["sampler"]["steps"] == 40
    assert params(file_with(demo, shards_per_job=1, batch_size=7, samples=500)) == before
    assert params(file_with(demo, shard_size=100)) != before
    assert params(file_with(demo, seed=1)) != before


# --- results --------------------------------------------------------------------------------------


def test_a_cell_is_measured_by_all_its_metrics_at_once(workflow):
    cell = "cifar10-cld/em-uniform-1000"
    metrics = workflow.metrics_of_cell("paper", cell)
    assert [(metric["name"], metric["samples"]) for metric in metrics] == [
        ("fid", 50_000),
        ("fid", 10_000),
    ]
    assert workflow.references_of_cell("paper", cell) == [
        "features/cifar10/fid/reference/manifest.json"
    ]


def test_only_what_decides_numbers_makes_other_metrics_of_a_cell(demo):
    def params(**changes: object) -> list:
        metric = demo.metrics["fd-classifier"] | changes
        grid = demo.model_copy(update={"metrics": demo.metrics | {"fd-classifier": metric}})
        return Workflow({"demo": grid}).metrics_of_cell("demo", "cld/em-quadratic-40")

    before = params()
    assert params(batch_size=7) == before
    assert params(reference_split="test") != before


def test_only_a_classifier_is_trained_as_an_extractor(workflow):
    assert workflow.extractor_folder("digits", "fd-classifier") == "features/digits/fd-classifier"
    assert workflow.extractor_folder("cifar10", "fid") is None


def test_metrics_of_one_extractor_share_a_reference(demo):
    assert list(Workflow({"demo": demo}).features) == ["fd-classifier"]


def test_a_table_reads_the_results_of_its_cells_each_once(workflow, demo):
    results = workflow.results_of_tables("demo", "demo-tolerance")
    assert len(results) == len(set(results)) == 6, "two columns of each cell"
    assert "results/cells/demo/cld/rk45-1e-2.json" in results
    everything = {
        f for table in demo.file.tables for f in workflow.results_of_tables("demo", table)
    }
    assert everything == {f"results/cells/demo/{cell}.json" for cell in demo.cells}


def test_a_table_and_its_plot_depend_on_the_metric_and_samples_that_the_grid_sets(demo):
    """They complete the entries; the results of a cell may have both metrics already."""

    def params(**changes: object) -> tuple:
        workflow = Workflow({"demo": file_with(demo, **changes)})
        return (
            workflow.params_of_table("demo", "demo-steps"),
            workflow.params_of_figure("demo", "nfe"),
            workflow.digest_of_grid("demo"),
        )

    before = params()
    for changes in ({"metric": "kd-classifier"}, {"samples": 500}):
        assert all(a != b for a, b in zip(before, params(**changes), strict=True)), changes
    table, plot, digest = params(batch_size=7)
    assert (table, plot) == before[:2]
    assert digest != before[2], "the certificate has the whole grid"


def test_only_a_grid_that_shows_likelihoods_measures_them(workflow, demo, paper):
    pattern = re.compile(workflow.grids_with_likelihood())
    for grid in (demo, paper):
        assert bool(pattern.fullmatch(grid.name)) == bool(grid.likelihood)
    assert not re.compile(Workflow({}).grids_with_likelihood()).match("demo")


# --- figures --------------------------------------------------------------------------------------


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
    inputs = workflow.inputs_of_figure("demo", figure)
    assert all(fnmatch(file, pattern) for file in inputs), inputs
    assert len(inputs) == len(set(inputs)) == count


def test_a_figure_of_inpainted_images_shows_the_originals(workflow):
    assert workflow.originals_of_figure("demo", "demo-inpainting-images") == ["data/digits.h5"]
    for figure in ("demo-guide", "samples/cld", "nfe", "models/digits", "phase-space/cld"):
        assert workflow.originals_of_figure("demo", figure) == []


def test_a_plot_depends_on_the_order_of_models_and_on_the_papers_numbers(demo):
    def params(grid: Grid, figure: str) -> dict:
        return Workflow({"demo": grid}).params_of_figure("demo", figure)

    turned = grid_with(demo, models=dict(reversed(demo.models.items())))
    assert params(demo, "nfe") != params(turned, "nfe")
    table = demo.file.tables["demo-steps"]
    first, *others = table.rows
    printed = first.model_copy(update={"paper": (3.0, 2.0)})
    tables = demo.file.tables | {
        "demo-steps": table.model_copy(update={"rows": (printed, *others)})
    }
    with_paper = file_with(demo, tables=tables)
    assert params(demo, "nfe") != params(with_paper, "nfe")
    assert params(demo, "training") == params(with_paper, "training")
    assert params(demo, "samples/cld") == params(with_paper, "samples/cld")


def test_a_path_through_phase_space_depends_on_the_sampler(demo):
    def params(grid: Grid, figure: str) -> dict:
        return Workflow({"demo": grid}).params_of_figure("demo", figure)

    reseeded = file_with(demo, seed=1)
    assert params(demo, "phase-space/cld") != params(reseeded, "phase-space/cld")
    assert params(demo, "samples/cld") == params(reseeded, "samples/cld"), "its record changes"
