"""The paper's grid against the paper: its numbers, its settings and its amount of work."""

import resource
import shutil
import time
from typing import Any

import pytest
import torch

from psld.grid.composing import compose_model
from psld.grid.loading import load_grid
from psld.grid.places import Evaluation
from psld.grid.plan import jobs_of, network_of
from psld.grid.resolved import ComposedTraining, Grid, shards_of_cells
from psld.training.model import build_network
from tests.grid.paper import IMAGES, LITERATURE, SIZES, STOPPED, TRAININGS, TRANSCRIBED, Number
from tests.workflow.project import REPOSITORY, Project


@pytest.fixture(scope="module")
def grid(paper) -> Grid:
    return paper


@pytest.fixture(scope="module")
def parameters(grid) -> dict[str, int]:
    """The number of parameters of each model, which is never allocated."""
    numbers = {}
    for name, model in grid.models.items():
        settings = compose_model(model.overrides, name)
        process = settings.process.build()
        with torch.device("meta"):
            network = build_network(settings, process)
        numbers[name] = sum(weight.numel() for weight in network.parameters())
    return numbers


# --- the numbers ------------------------------------------------------------------------------


def number(grid: Grid, size: int, evaluation: Evaluation, show: str | None, value: float) -> Number:
    """What the grid really computes for a number of the paper."""
    model = grid.models[evaluation.model]
    sampler = grid.samplers[evaluation.sampler].settings
    guidance = sampler["guidance"]
    kind = [sampler["integrator"], sampler.get("striding")]
    if guidance["kind"] != "none":
        kind += [guidance["kind"], guidance["split"]]
    budget = sampler.get("steps") or sampler["tolerance"]
    gamma = model.settings["process"].get("gamma")
    shown = "nfe" if show == "nfe" else evaluation.metric
    name = "-".join(filter(None, kind))
    return model.dataset, gamma, size, name, budget, evaluation.samples, shown, value


@pytest.mark.parametrize("name", TRANSCRIBED)
def test_the_numbers_of_a_table_are_its_cells(grid, parameters, name):
    numbers = []
    for place in grid.file.places_in(name):
        if place.evaluation and place.row.paper is not None:
            size = parameters[place.evaluation.model] // 1_000_000
            show = place.column.show
            numbers.append(number(grid, size, place.evaluation, show, place.paper))
    assert sorted(numbers, key=str) == sorted(TRANSCRIBED[name](), key=str)


def test_only_what_is_not_known_stands_without_the_paper_s_value(grid):
    alone = [
        (name, row.label)
        for name, table in grid.file.tables.items()
        for row in table.rows
        if row.paper is None
    ]
    assert alone == [("table6", ("VP-SDE", f"−{log}")) for log in (4, 3, 2, 1)]


def test_the_source_of_every_number_is_named(grid):
    known = {"table5": {"V-realigned"}, "table6": {"V", "V, label inferred"}}
    for name, table in grid.file.tables.items():
        assert {row.source for row in table.rows if row.paper} == known.get(name, {"V"})


def test_rows_of_other_papers_are_printed_and_never_run(grid):
    for name, table in grid.file.tables.items():
        rows = [row for row in table.rows if row.literature]
        assert tuple(row.paper[-1] for row in rows) == LITERATURE.get(name, ())
        for row, places in zip(table.rows, grid.file.places[name], strict=True):
            assert row.literature == ({place.evaluation for place in places} == {None})


def test_the_bands_are_stated_and_narrower_than_what_the_tables_show(grid):
    """In Tables 1 and 7 a value within its band is nearer to its own method than to the other."""
    bands = {name: grid.file.tables[name].band for name in TRANSCRIBED}
    assert all(band.reason for band in bands.values())
    rivals = {"table1": [(2.41, 2.21)], "table7": [(1.01, 0.85), (7.10, 6.93)]}
    for table, pairs in rivals.items():
        for cld, psld in pairs:
            assert bands[table].width(cld, "value") <= (cld - psld) / 2 + 1e-9
    assert bands["table6"].width(280, "nfe") == 28


def test_the_reference_of_table_7_is_truncated_as_the_official_code_s_is(grid):
    truncated = {name for name, metric in grid.metrics.items() if metric["truncated_reference"]}
    assert truncated == {"fid-train", "fid-test"}
    assert {column.metric for column in grid.file.tables["table7"].columns} == truncated


# --- the models -------------------------------------------------------------------------------


def test_networks_have_the_paper_s_sizes(grid, parameters):
    sizes: dict[str, set[float]] = {}
    for model, count in parameters.items():
        sizes.setdefault(network_of("model", grid.models[model]), set()).add(round(count / 1e6, 2))
    assert sizes == SIZES


def recipe_of(grid: Grid, trained: ComposedTraining, name: str) -> dict[str, Any]:
    """The training settings of a model or guide, after its length and batch are checked."""
    [recipe] = [o[9:] for o in trained.overrides if o.startswith("training=")]
    batch, epochs, learning_rate, dropout = TRAININGS[recipe]
    epochs = STOPPED.get(name, epochs - 1) + 1
    training = trained.settings["training"]
    assert training["steps"] == epochs * (IMAGES[trained.dataset] // batch), name
    assert training["batch_size"] == batch
    assert training["learning_rate"] == learning_rate
    assert trained.settings["network"]["dropout"] == dropout
    assert trained.settings["dataset"]["flip"]
    common = ("warmup_steps", "time_eps", "precision", "seed")
    assert [training[key] for key in common] == [5000, 1e-5, "fp32", 0]
    return training


def test_models_are_trained_as_the_official_scripts_say(grid):
    for name, model in grid.models.items():
        training = recipe_of(grid, model, name)
        common = ("grad_clip", "ema_decay", "weighting")
        assert [training[key] for key in common] == [1.0, 0.9999, "fid"]
        assert training.get("label_dropout") is None


def test_guides_are_trained_as_the_official_scripts_say(grid):
    """On the noise of the models that they guide."""
    assert list(grid.guides) == ["cifar10-psld-0.01", "afhqv2-psld-0.01"]
    for name, guide in grid.guides.items():
        training = recipe_of(grid, guide, name=f"guide-{name.partition('-')[0]}")
        assert training["ema_decay"] == 0
        assert training["grad_clip"] > 1e3
    for figure, scale in (("figure3-cifar10", 5.0), ("figure3-afhqv2", 10.0)):
        model, sampler = grid.file.pictures[figure].split("/")
        guiding = grid.guides[grid.samplers[sampler].guide]
        assert guiding.settings["process"] == grid.models[model].settings["process"]
        assert guiding.dataset == grid.models[model].dataset
        assert grid.samplers[sampler].settings["guidance"]["scale"] == scale


def test_processes_are_the_paper_s(grid):
    for model in grid.models.values():
        process = model.settings["process"]
        if process["kind"] == "vp-sde":
            assert (process["beta_min"], process["beta_max"]) == (0.1, 20.0)
            continue
        assert (process["beta_min"], process["beta_max"]) == (8.0, 8.0)
        assert (process["mass_inverse"], process["kappa"]) == (4.0, 0.04)
        assert (process["matching"], process["factor"]) == ("hsm", "lower")
        assert process["numerical_eps"] == 1e-9


def test_samplers_end_as_the_official_ones(grid):
    for sampler in grid.samplers.values():
        assert sampler.settings["final_time"] == 1e-3
        assert sampler.settings["denoise"]


# --- the work ---------------------------------------------------------------------------------


def test_ten_and_fifty_thousand_samples_share_their_shards(grid):
    cell = "cifar10-cld/em-uniform-1000"
    assert {e.samples for e in grid.evaluations_by_cell[cell]} == {10_000, 50_000}
    assert grid.shards[cell] == 50
    # Five cells stand in Table 4 with 50,000 samples and in Table 5 with 10,000.
    alone = [shards_of_cells([e], grid.file.shard_size) for e in grid.evaluations]
    separate = sum(sum(shards.values()) for shards in alone)
    assert separate - sum(grid.shards[cell] for cell in grid.cells) == 50


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """The project with its own grids, before anything exists."""
    project = Project.create(tmp_path_factory.mktemp("project") / "project")
    grids = project.folder / "configs" / "grid"
    shutil.rmtree(grids)
    shutil.copytree(REPOSITORY / "configs" / "grid", grids)
    return project


def dry_run(project: Project, *targets: str) -> dict[str, int]:
    """The jobs of each stage."""
    return project.plan("--quiet", "rules", "--", *targets)


@pytest.mark.slow
def test_a_dry_run_lists_the_whole_paper_in_seconds(grid, project):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert dry_run(project, "all") == jobs_of(grid)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime < 20


@pytest.mark.parametrize(("table", "models", "samplings"), [("table4", 10, 60), ("table7", 2, 6)])
def test_each_table_is_a_target(project, table, models, samplings):
    """A job samples ten shards of 1,000 images, or what is left of the split that is inpainted."""
    jobs = dry_run(project, table)
    assert (jobs["train"], jobs["sample"], jobs["tabulate"]) == (models, samplings, 1)


@pytest.mark.parametrize(
    ("figure", "jobs"),
    [
        ("figure1", {"train": 3, "sample": 3, "figure": 3}),
        ("figure3", {"train": 3, "train_guide": 2, "sample": 3, "figure": 3}),
        ("figure3-cifar10", {"train": 1, "train_guide": 1, "sample": 1, "figure": 1}),
    ],
)
def test_each_figure_is_a_target(project, figure, jobs):
    planned = dry_run(project, figure)
    assert planned.items() >= jobs.items()


def test_a_second_parse_takes_no_time(folder, monkeypatch):
    monkeypatch.chdir(folder)
    started = time.process_time()
    load_grid("paper")
    assert time.process_time() - started < 1


def test_the_rehearsal_has_every_model_and_cell(grid, folder, monkeypatch):
    monkeypatch.chdir(folder)
    rehearsal = load_grid("rehearsal")
    assert rehearsal.cells == grid.cells
    assert list(rehearsal.models) == list(grid.models)
    for name, model in rehearsal.models.items():
        assert model.settings["process"] == grid.models[name].settings["process"]
        network, whole = model.settings["network"], grid.models[name].settings["network"]
        changed = {key for key in network if network[key] != whole[key]}
        assert changed <= {"base_channels", "channel_multipliers", "blocks_per_level"}
        assert model.settings["training"]["steps"] < 10
    assert all(s.settings.get("steps", 0) < 10 for s in rehearsal.samplers.values())
    assert not rehearsal.file.tables.keys() & grid.file.tables.keys()
