"""The grid `paper` agrees with the paper: numbers, settings and amount of work."""

import resource

import pytest
import torch

from psld.diffusion.settings import NoiseLaw
from psld.grid.cache import load_grid
from psld.grid.entries import Entry
from psld.grid.reading import grid_path, read_grid_file
from psld.grid.records import GuideRecord, ModelRecord
from psld.grid.rows import all_entries, entries_in
from psld.grid.schema import GridFile
from psld.grid.tables import Shown
from psld.models.build import build
from psld.models.objectives import Denoiser, LoopSettings
from psld.report.plan import jobs_by_stage, work_by_network
from tests.grid.paper import (
    ABLATIONS,
    AGAIN,
    CONTRADICTED,
    IMAGES,
    LITERATURE,
    SIZES,
    STOPPED,
    TRAININGS,
    TRANSCRIBED,
    Number,
)
from tests.workflow.project import Project


@pytest.fixture(scope="module")
def parameters(paper) -> dict[str, int]:
    """Return the number of parameters of each model. No weights are allocated."""
    numbers, counted = {}, {}
    for name, model in paper.models.items():
        settings, process = model.settings, model.settings.process.build()
        channels = settings.training.objective.channels(settings.dataset, process)
        key = repr([settings.network, settings.dataset, channels])
        if key not in counted:
            with torch.device("meta"):
                network = build(settings, process)
            counted[key] = sum(weight.numel() for weight in network.parameters())
        numbers[name] = counted[key]
    return numbers


# --- the numbers ------------------------------------------------------------------------------


def computed(entry: Entry, size: int) -> Number:
    """Return the number that the grid computes for an entry with a paper value."""
    cell = entry.cell
    sampler, process = cell.sampler.settings, cell.model.settings.process
    kind = [sampler.integrator, getattr(sampler, "striding", None)]
    if sampler.guidance.kind != "none":
        kind += [sampler.guidance.kind, sampler.guidance.split]
    budget = getattr(sampler, "steps", None) or sampler.tolerance
    shown = "nfe" if entry.show == "nfe" else entry.shown.metric
    name, gamma = "-".join(filter(None, kind)), getattr(process, "gamma", None)
    return cell.model.dataset, gamma, size, name, budget, entry.samples, shown, entry.paper


@pytest.mark.parametrize("name", TRANSCRIBED)
def test_transcribed_numbers_match_the_cells(paper, parameters, name):
    numbers = []
    for entry in entries_in(paper, name):
        if entry.cells and entry.paper is not None:
            numbers.append(computed(entry, parameters[entry.cell.model.name] // 1_000_000))
    assert sorted(numbers, key=str) == sorted(TRANSCRIBED[name], key=str)


def test_sources_of_the_paper_values(paper):
    known = {"table5": {"V-realigned"}, "table6": {"V", "V, label inferred"}}
    for name, table in paper.file.tables.items():
        assert {row.source for row in table.rows if row.paper} == known.get(name, {"V"})
        rows = [row for row in table.rows if row.literature]
        assert tuple(row.paper[:2][-1] for row in rows) == LITERATURE.get(name, ())
        for entries in all_entries(paper)[name]:
            assert {entry.cells == () for entry in entries} == {entries[0].row.literature}
    tables = paper.file.tables.items()
    alone = [(name, row.label) for name, t in tables for row in t.rows if row.paper is None]
    assert alone == [("table6", ("VP-SDE", f"−{log}")) for log in (4, 3, 2, 1)]


def test_bands_have_reasons_and_separate_the_methods(paper):
    """In Tables 1 and 7, a value within its band is nearer to its method than to the other."""
    bands = {name: paper.file.tables[name].band for name in TRANSCRIBED}
    assert all(band.reason for band in bands.values())
    rivals = {"table1": [(2.41, 2.21)], "table7": [(1.01, 0.85), (7.10, 6.93)]}
    for table, pairs in rivals.items():
        for cld, psld in pairs:
            assert bands[table].width(cld, "value") <= (cld - psld) / 2 + 1e-9
    assert bands["table6"].width(280, "nfe") == 28


def printed(file: GridFile) -> dict[Shown, float]:
    """Return the metrics and network evaluations that the paper prints."""
    numbers = {}
    for name, table in file.tables.items():
        for row, shown in zip(table.rows, file.shown[name], strict=True):
            if row.paper and not row.literature:
                numbers |= dict(zip(shown, row.paper, strict=True))
    return {shown: paper for shown, paper in numbers.items() if paper is not None}


@pytest.mark.parametrize(("name", "against"), [("paper", CONTRADICTED), ("paper-seeds", AGAIN)])
def test_paper_values_contradict_only_the_listed_claims(name, against):
    """docs/notes/paper.md lists the contradictions."""
    file = read_grid_file(grid_path(name))
    numbers, contradicted = printed(file), []
    for claim, pairs in zip(file.claims, file.pairs, strict=True):
        for label, smaller, larger in pairs:
            if numbers[smaller] >= numbers[larger]:
                contradicted.append((claim.claim.rpartition(" (")[0], label))
    assert contradicted == list(against)


def test_paper_seeds_agrees_with_the_paper_grid(paper):
    """Both grids have the same first training, samples, paper values and bands."""
    whole, seeds = paper.file, read_grid_file(grid_path("paper-seeds"))
    assert len(seeds.trainings) == 3 * len(seeds.models)
    for key in ("defaults", "seed", "shard_size", "samples"):
        assert getattr(seeds, key) == getattr(whole, key)
    assert seeds.models.items() <= whole.models.items()
    assert seeds.samplers.items() <= whole.samplers.items()
    assert printed(seeds).items() <= printed(whole).items()
    bands = [(t.band.absolute, t.band.relative) for t in seeds.tables.values()]
    wide, narrow = (whole.tables[name].band for name in ("table5", "table1"))
    assert set(bands) == {(band.absolute, band.relative) for band in (wide, narrow)}


def test_references_of_table_7_are_truncated(paper):
    truncated = {name for name, metric in paper.metrics.items() if metric.truncated_reference}
    assert truncated == {"fid-train", "fid-test"}
    assert {column.metric for column in paper.file.tables["table7"].columns} == truncated


# --- the models -------------------------------------------------------------------------------


def test_networks_have_the_sizes_of_the_paper(paper, parameters):
    sizes: dict[str, set[float]] = {}
    for network, work in work_by_network(paper).items():
        for model in work.trained:
            if isinstance(model, ModelRecord):
                sizes.setdefault(network, set()).add(round(parameters[model.name] / 1e6, 2))
    assert sizes == SIZES


def recipe(
    trained: ModelRecord | GuideRecord, overrides: tuple[str, ...], name: str
) -> LoopSettings:
    """Check the steps and common settings of a training, and return its settings."""
    [chosen] = [o[9:] for o in overrides if o.startswith("training=")]
    batch, epochs, learning_rate, dropout = TRAININGS[chosen]
    epochs = STOPPED.get(name, epochs - 1) + 1
    settings = trained.settings
    training = settings.training
    assert training.steps == epochs * (IMAGES[trained.dataset] // batch), name
    assert (training.batch_size, training.learning_rate) == (batch, learning_rate)
    assert (settings.network.dropout, settings.dataset.flip) == (dropout, True)
    assert (training.warmup_steps, training.time_eps) == (5000, 1e-5)
    assert (training.precision, training.seed) == ("fp32", 0)
    return training


def test_models_have_the_training_settings_of_the_official_scripts(paper):
    for name, model in paper.models.items():
        training = recipe(model, paper.file.overrides(name), name)
        assert (training.grad_clip, training.ema_decay) == (1.0, 0.9999)
        assert (training.weighting, training.label_dropout) == ("fid", None)
        process = model.settings.process
        if process.kind == "vp-sde":
            assert (process.beta_min, process.beta_max) == (0.1, 20.0)
            continue
        assert (process.beta_min, process.beta_max) == (8.0, 8.0)
        assert (process.mass_inverse, process.kappa) == (4.0, 0.04)
        assert (process.matching, process.factor) == ("hsm", "lower")
        assert process.numerical_eps == 1e-9


def test_guides_have_the_training_settings_of_the_official_scripts(paper):
    """Guides are trained with the process of the models that they guide."""
    assert list(paper.guides) == ["cifar10-psld-0.01", "afhqv2-psld-0.01"]
    for name, guide in paper.guides.items():
        overrides = paper.file.guides[name].overrides
        training = recipe(guide, overrides, f"guide-{name.partition('-')[0]}")
        assert training.ema_decay == 0
        assert training.grad_clip > 1e3
    for figure, scale in (("figure3-cifar10", 5.0), ("figure3-afhqv2", 10.0)):
        cell = paper.cells[paper.file.figures[figure][0]]
        assert cell.guide.settings.process == cell.model.settings.process
        assert cell.guide.dataset == cell.model.dataset
        assert cell.sampler.settings.guidance.scale == scale


def test_samplers_end_like_the_official_samplers(paper):
    for sampler in paper.samplers.values():
        assert (sampler.settings.final_time, sampler.settings.denoise) == (1e-3, True)


# --- the work ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_dry_run_lists_all_jobs_of_the_paper_in_seconds(paper, resolved, tmp_path):
    """The project has no files yet."""
    project = Project.link(tmp_path / "project", resolved)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert project.plan("--quiet", "rules", "--", "all") == jobs_by_stage(paper)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime < 30


# --- one denoiser for each dataset ------------------------------------------------------------


def compared(file: GridFile) -> set[tuple[str, str]]:
    """Return the pairs of cells of all comparisons. The paper calls the first cell better."""
    return {(smaller.cell, larger.cell) for pairs in file.pairs for _, smaller, larger in pairs}


def test_denoiser_grid_repeats_comparisons_of_the_paper(paper):
    """The comparisons have the same processes, samplers and paper values."""
    whole, denoisers = paper.file, read_grid_file(grid_path("paper-denoiser"))
    ours = compared(denoisers) - compared(whole)
    assert {(a.partition("/")[2], b.partition("/")[2]) for a, b in ours} == {
        ("few-10", "em-quadratic-100")
    }
    assert printed(denoisers).items() <= printed(whole).items()


def test_denoisers_are_ablations_with_another_objective(folder, paper):
    grid = load_grid("paper-denoiser")
    for name in grid.models.keys() & paper.models.keys():
        assert grid.models[name].settings.process == paper.models[name].settings.process
    for name in grid.samplers.keys() & paper.samplers.keys():
        assert grid.samplers[name].settings == paper.samplers[name].settings
    for trained, ablation in ABLATIONS.items():
        denoiser, own = grid.models[trained].settings, paper.models[ablation].settings
        changed = {"objective": Denoiser(), "noise_law": NoiseLaw()}
        assert denoiser.training == own.training.model_copy(update=changed)
        assert (denoiser.dataset, denoiser.network) == (own.dataset, own.network)
    assert jobs_by_stage(grid)["train"] == len(ABLATIONS)
