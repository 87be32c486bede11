"""The paper's grid against the paper: a second transcription of its numbers and settings.

Each number that the authors produced must be a cell: (dataset, Γ, millions of parameters, sampler,
budget, samples, what is shown, value), with Γ = None for VP-SDE.
"""

import resource
import shutil
import time

import pytest
import torch

from psld.cli import CONFIGS
from psld.compose import Composer
from psld.grid import Evaluation, Grid, load_grid
from psld.model import build_network, build_process
from psld.plan import jobs_of, network_of
from tests.workflow.project import REPOSITORY, Project

Number = tuple[str, float | None, int, str, float, int, str, float]

CIFAR, CELEBA, AFHQ = "cifar10", "celeba64", "afhqv2-128"
VP = None


@pytest.fixture(scope="module")
def grid(tmp_path_factory) -> Grid:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("paper"))  # The cache starts empty.
        return load_grid("paper", CONFIGS)


@pytest.fixture(scope="module")
def parameters(grid) -> dict[str, int]:
    """The number of parameters of each model, which is never allocated."""
    numbers, composer = {}, Composer(CONFIGS)
    for name, model in grid.models.items():
        settings = composer.model(model.overrides, name)
        process = build_process(settings)
        with torch.device("meta"):
            network = build_network(settings, process)
        numbers[name] = sum(weight.numel() for weight in network.parameters())
    return numbers


# --- the numbers ------------------------------------------------------------------------------


def number(grid: Grid, size: int, evaluation: Evaluation, shown: str, value: float) -> Number:
    """What the grid really computes for a number of the paper."""
    model = grid.models[evaluation.model]
    sampler = grid.samplers[evaluation.sampler].settings
    kind = "-".join(filter(None, (sampler["integrator"], sampler.get("striding"))))
    budget = sampler.get("steps") or sampler["tolerance"]
    gamma = model.settings["process"].get("gamma")
    return model.dataset, gamma, size, kind, budget, evaluation.samples, shown, value


@pytest.mark.parametrize("name", TRANSCRIBED)
def test_the_numbers_of_a_table_are_its_cells(grid, parameters, name):
    table = grid.file.tables[name]
    numbers = []
    for row, evaluations in zip(table.rows, grid.table_evaluations(name), strict=True):
        for column, evaluation, value in zip(
            table.columns, evaluations, row.paper or (), strict=bool(row.paper)
        ):
            if evaluation is not None:
                size = parameters[evaluation.model] // 1_000_000
                numbers.append(number(grid, size, evaluation, column.show or "value", value))
    assert sorted(numbers, key=str) == sorted(TRANSCRIBED[name](), key=str)


def test_rows_of_other_papers_are_printed_and_never_run(grid):
    for name, table in grid.file.tables.items():
        rows = [row for row in table.rows if row.literature]
        assert tuple(row.paper[-1] for row in rows) == LITERATURE.get(name, ())
        for row, evaluations in zip(table.rows, grid.table_evaluations(name), strict=True):
            assert row.literature == (set(evaluations) == {None})


def test_the_bands_are_stated_and_narrower_than_what_the_tables_show(grid):
    """PSLD beats CLD in Table 1 by 0.20: a value within its band is nearer to its own than that."""
    for name in TRANSCRIBED:
        assert grid.file.tables[name].band.reason
    assert grid.file.tables["table1"].band.width(2.21, "value") < 0.2
    assert grid.file.tables["table1"].band.width(1000, "nfe") < 1000


# --- the models -------------------------------------------------------------------------------

def test_networks_have_the_paper_s_sizes(grid, parameters):
    sizes: dict[str, set[float]] = {}
    for model, count in parameters.items():
        sizes.setdefault(network_of(grid.models[model]), set()).add(round(count / 1e6, 2))
    assert sizes == SIZES


def test_models_are_trained_as_the_official_scripts_say(grid):
    for name, model in grid.models.items():
        [recipe] = [o[9:] for o in model.overrides if o.startswith("training=")]
        batch, epochs, learning_rate, dropout = TRAININGS[recipe]
        epochs = CHECKPOINTS.get(name, epochs - 1) + 1
        training = model.settings["training"]
        assert training["steps"] == epochs * (IMAGES[model.dataset] // batch), name
        assert training["batch_size"] == batch
        assert training["learning_rate"] == learning_rate
        assert model.settings["network"]["dropout"] == dropout
        common = ("warmup_steps", "grad_clip", "ema_decay", "time_eps", "precision", "weighting")
        assert [training[key] for key in common] == [5000, 1.0, 0.9999, 1e-5, "fp32", "fid"]
        assert model.settings["dataset"]["flip"]


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
    few, many = sorted(grid.evaluations_of("cifar10-cld/em-uniform-1000"), key=lambda e: e.samples)
    assert (few.samples, many.samples) == (10_000, 50_000)
    assert (grid.shards_of(few), grid.shards_of(many)) == (10, 50)
    assert few.cell == many.cell
    # Five cells stand in Table 4 with 50,000 samples and in Table 5 with 10,000.
    separate = sum(grid.shards_of(evaluation) for evaluation in grid.evaluations)
    shared = [max(map(grid.shards_of, grid.evaluations_of(cell))) for cell in grid.cells]
    assert separate - sum(shared) == 50


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """The project with its own grids, before anything exists."""
    project = Project.create(tmp_path_factory.mktemp("project") / "project")
    grids = project.folder / "configs" / "grid"
    shutil.rmtree(grids)
    shutil.copytree(REPOSITORY / "configs" / "grid", grids)
    return project


def dry_run(project: Project, *targets: str) -> dict[str, int]:
    """The jobs of each stage; the other rules only name targets."""
    jobs = project.plan("--quiet", "rules", "--", *targets)
    return {rule: number for rule, number in jobs.items() if rule not in targets}


def test_a_dry_run_lists_the_whole_paper_in_seconds(grid, project):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert dry_run(project, "all") == jobs_of(grid)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime < 20


@pytest.mark.parametrize(
    ("table", "models", "shards"), [("table1", 6, 300), ("table4", 10, 600), ("table5", 3, 500)]
)
def test_each_table_is_a_target(project, table, models, shards):
    jobs = dry_run(project, table)
    assert (jobs["train"], jobs["sample"], jobs["tabulate"]) == (models, shards, 1)


def test_a_second_parse_takes_no_time(project, monkeypatch):
    monkeypatch.chdir(project.folder)
    load_grid("paper", project.folder / "configs")
    started = time.process_time()
    load_grid("paper", project.folder / "configs")
    assert time.process_time() - started < 1


def test_the_rehearsal_has_every_model_and_cell(grid, project, monkeypatch):
    monkeypatch.chdir(project.folder)
    rehearsal = load_grid("rehearsal", project.folder / "configs")
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
