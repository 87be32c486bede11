"""The figures of a grid, determined from its cells without any result."""

import contextlib
import subprocess
import sys

import pytest

from psld.config.locations import CONFIGS
from psld.grid.figures import (
    blocks_of,
    comparisons_of,
    evaluations_of_plot,
    figures_of,
    gamma_panels,
    nfe_panels,
    phase_space_models,
    plots_of,
)
from psld.grid.loading import load_grid
from psld.grid.resolved import Grid


@pytest.fixture(scope="module")
def paper() -> Grid:
    with contextlib.chdir(CONFIGS.parent):
        return load_grid("paper")


def cells_by_line(panels):
    return {
        (panel.family, panel.samples): {
            name: [evaluation.cell for evaluation in line] for name, line in panel.lines.items()
        }
        for panel in panels
    }


def test_lines_over_nfe_join_cells_of_one_model_sampler_and_number_of_samples(grid):
    """In the order of the grid's models; a panel of single cells is left out."""
    panels = cells_by_line(nfe_panels(grid))
    assert list(panels) == [("em", 100), ("rk45", 100)]
    assert list(panels["em", 100]) == ["vp-sde", "cld", "low", "high"]
    assert panels["em", 100]["cld"] == ["cld/em-20", "cld/em-10"]
    assert panels["rk45", 100] == {"cld": ["cld/rk45-1e-2", "cld/rk45-1e-3"]}


def test_lines_over_gamma_join_models_that_differ_in_gamma_alone(grid):
    """In the order of their costs; `longer` is trained otherwise, VP-SDE has no Γ."""
    lines = cells_by_line(gamma_panels(grid))["em", 100]
    assert list(lines) == ["steps = 10", "steps = 20"]
    assert lines["steps = 10"] == ["cld/em-10", "low/em-10", "high/em-10"]
    assert ("rk45", 100) not in cells_by_line(gamma_panels(grid)), "one Γ is no dependence"


def test_a_plot_needs_the_results_of_its_cells_once(grid):
    for plot, number in (("nfe", 10), ("gamma", 6), ("training", 0)):
        evaluations = evaluations_of_plot(grid, plot)
        assert len(evaluations) == len(set(evaluations)) == number
    assert plots_of(grid) == ["nfe", "gamma", "training"]


def test_imported_models_have_no_training_curve(grid):
    models = {n: m.model_copy(update={"checkpoint": "x.ckpt"}) for n, m in grid.models.items()}
    assert plots_of(grid.model_copy(update={"models": models})) == ["nfe", "gamma"]


def test_models_with_momentum_are_traced(grid):
    assert phase_space_models(grid) == ["cld", "low", "high", "longer"]
    ode = grid.file.model_copy(update={"gallery": "rk45-1e-2"})
    assert phase_space_models(grid.model_copy(update={"file": ode})) == []


def test_comparisons_are_of_models_and_of_unguided_samplers(grid):
    comparisons = comparisons_of(grid)
    assert list(comparisons) == [
        "models/digits",
        *(f"samplers/{m}" for m in ("vp-sde", "cld", "low", "high")),
    ]
    assert comparisons["models/digits"]["longer"] == "longer/em-10"
    assert list(comparisons["samplers/cld"]) == ["em-10", "em-20", "rk45-1e-2", "rk45-1e-3"]


def test_a_grid_has_plots_paths_samples_comparisons_and_the_figures_of_its_file(grid):
    shown = {"mine": {"": "cld/free-10"}, "two": {"a": "cld/em-10", "b": "low/em-10"}}
    file = grid.file.model_copy(update={"figures": shown})
    figures = figures_of(grid.model_copy(update={"file": file}))
    models = ["vp-sde", "cld", "low", "high", "longer"]
    assert {name: figure.kind for name, figure in figures.items()} == {
        **dict.fromkeys(["nfe", "gamma", "training"], "plot"),
        **{f"phase-space/{model}": "phase-space" for model in models[1:]},
        **{f"samples/{model}": "samples" for model in models},
        **dict.fromkeys(["models/digits", *(f"samplers/{m}" for m in models[:4])], "comparison"),
        **dict.fromkeys(["mine", "two-a", "two-b"], "samples"),
    }
    assert all(figure.name == name for name, figure in figures.items())
    assert figures["samples/low"].cells == {"": "low/em-10"}
    assert figures["two-b"].cells == {"": "low/em-10"}
    assert figures["phase-space/low"].model == "low"


def test_every_process_says_how_many_blocks_it_has():
    kinds = [{"kind": "vp-sde"}, {"kind": "psld"}, {"kind": "recipe", "S": [1, 1, 1]}]
    assert [blocks_of(process) for process in kinds] == [1, 2, 3]


def test_the_papers_plots_are_its_tables_5_and_6_and_4(paper):
    nfe = {(p.samples, p.family): set(p.lines) for p in nfe_panels(paper)}
    table5 = {"em-quadratic", "em-uniform", "sscs-quadratic", "sscs-uniform"}
    assert {family for samples, family in nfe if samples == 10_000} == table5 | {"rk45"}
    assert nfe[10_000, "em-uniform"] == {"cifar10-vp-sde", "cifar10-cld", "cifar10-psld-0.02"}
    gamma = {(p.dataset, p.family): p.lines["steps = 1000"] for p in gamma_panels(paper)}
    assert {dataset for dataset, _ in gamma} == {"cifar10", "celeba64"}
    # Table 4, and Γ = 0.04 from the text.
    assert len(gamma["cifar10", "em-uniform"]) == 6
    assert len(gamma["celeba64", "em-quadratic"]) == 5


def test_snakemake_asks_without_torch_or_matplotlib():
    code = "import sys, psld.grid.figures; print({'torch', 'matplotlib'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
