"""Plots of a grid: the positions of measured points and of the paper's points."""

import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from psld.models.objectives import Denoiser
from psld.report.plots import MAX_POINTS, draw_plot, looks_of, thinned
from psld.training.files import write_history
from tests.commands import call, refused, succeeded
from tests.report.conftest import MEASURED
from tests.results import write_result

pytestmark = pytest.mark.usefixtures("folder")


def points_of(figure: Figure, ours: bool = True) -> dict[str, dict[str, list]]:
    """Return the points by panel and line. The colors of the legend identify the lines of the
    paper."""
    colors = {to_hex(h.get_color()): h.get_label() for h in figure.legends[0].get_lines()}
    panels: dict[str, dict[str, list]] = {}
    for axes in figure.axes:
        lines = panels.setdefault(axes.get_title(), {})
        for line in axes.get_lines():
            points = [tuple(map(float, point)) for point in zip(*line.get_data(), strict=True)]
            if ours and not line.get_label().startswith("_"):
                lines[line.get_label()] = points
            if not ours and line.get_label() == "_paper":
                lines[colors[to_hex(line.get_color())]] = points
    return {panel: lines for panel, lines in panels.items() if panel}


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_nfe_plot_shows_measured_numbers_and_numbers_of_the_paper(grid):
    """For an adaptive sampler, the number of evaluations must be in the paper; it is missing for
    1e-3."""
    figure = draw_plot(grid, "nfe")
    assert points_of(figure) == {
        "em": {
            "vp-sde": [(20, 2.5)],
            "cld": [(10, 8.5), (20, 4.25)],
            "low": [(10, 7.5)],
            "high": [(10, 9.25)],
        },
        "rk45": {"cld": [(81, 5.5)]},
    }
    assert points_of(figure, ours=False) == {
        "em": {"cld": [(10, 8), (20, 4)], "high": [(10, 9), (20, 3)]},
        "rk45": {"cld": [(80, 5)]},
    }
    assert "hollow: the paper's" in legend_of(figure)
    first, second = figure.axes[:2]
    assert first.get_ylim() == second.get_ylim(), "panels of one metric share their axis"
    low, high = first.get_ylim()
    assert low < 2.5 < 9.25 < high


def test_the_gamma_plot_shows_distances_by_gamma(grid):
    figure = draw_plot(grid, "gamma")
    assert points_of(figure) == {
        "em": {"10 steps": [(0, 8.5), (0.01, 7.5), (0.25, 9.25)], "20 steps": [(0, 4.25)]}
    }
    papers = {"10 steps": [(0, 8), (0.25, 9)], "20 steps": [(0, 4), (0.25, 3)]}
    assert points_of(figure, ours=False) == {"em": papers}
    [axes] = [axes for axes in figure.axes if axes.get_title()]
    assert axes.get_xscale() == "symlog"
    assert [f"{tick:g}" for tick in axes.get_xticks()] == ["0", "0.01", "0.25"]


def test_error_bars_end_inside_the_axes_and_do_not_overlap(folder, grid):
    for cell, value in ("cld/em-10", 8.5), ("low/em-10", 7.5), ("high/em-10", 9.5):
        write_result(folder, grid, cell, value=value, error=value / 4)
    axes = draw_plot(grid, "nfe").axes[0]
    low, high = axes.get_ylim()
    bars = [bar for each in axes.collections for bar in each.get_segments()]
    assert low < min(bar[0, 1] for bar in bars) < 4
    assert 13 < max(bar[1, 1] for bar in bars) < high
    shifts = [tuple(each.get_transform().transform((10, 8))) for each in axes.collections]
    assert len(set(shifts)) == len(shifts)


def test_a_bar_down_to_0_ends_in_an_arrow_and_a_value_of_0_is_not_drawn(folder, grid):
    """The axis is logarithmic."""
    write_result(folder, grid, "cld/em-10", value=8.5, error=8)
    write_result(folder, grid, "cld/em-20", value=0.0)
    figure = draw_plot(grid, "nfe")
    [arrow] = [line for line in figure.axes[0].get_lines() if line.get_label() == "_arrows"]
    assert arrow.get_xydata().tolist() == [[10, pytest.approx(0.85)]]
    assert figure.axes[0].get_ylim()[0] < 0.85
    assert [x for x, _ in points_of(figure)["em"]["cld"]] == [10]


def test_a_plot_uses_the_labels_of_the_grid(folder, grid):
    labels = {"cld": r"CLD, $\frac$", "high": "PSLD", "em": "Euler–Maruyama"}
    figure = draw_plot(replace(grid, file=grid.file.model_copy(update={"labels": labels})), "nfe")
    assert [axes.get_title() for axes in figure.axes] == ["Euler–Maruyama", "rk45"]
    assert legend_of(figure)[:4] == ["vp-sde", r"CLD, $\frac$", "low", "PSLD"]
    figure.savefig(folder / "plot.png")  # fails if matplotlib reads a text as a formula


def test_the_legend_has_the_distance_of_noise_but_not_of_held_out_images(folder, grid):
    """The held-out split is not a random draw, and has a different number of images."""
    figure = draw_plot(grid, "nfe")
    assert legend_of(figure)[-2:] == ["hollow: the paper's", "noise: 99"]
    for cell, (value, _) in MEASURED.items():
        write_result(folder, grid, cell, value=value, noise=3.0)
    figure = draw_plot(grid, "nfe")
    assert {line.get_ydata()[0] for line in figure.axes[0].get_lines()} >= {3.0}


@pytest.mark.parametrize(("lowest", "highest"), [(2.1, 4.6), (0.8, 30), (0.01, 900)])
def test_axes_have_names_and_labels_that_do_not_overlap(folder, grid, lowest, highest):
    entries = [
        {"step": s, "time": 1e9 + s, "loss": loss}
        for s, loss in zip(range(50, 1251, 400), np.geomspace(highest, lowest, 4), strict=True)
    ]
    write_history(folder / "models/mine/cld", entries)
    for cell, value in zip(MEASURED, np.geomspace(lowest, highest, len(MEASURED)), strict=True):
        write_result(folder, grid, cell, value=value, error=0.01)
    for plot in ("nfe", "gamma", "training"):
        figure = draw_plot(grid, plot)
        figure.savefig(folder / "plot.png")
        for axes in (axes for axes in figure.axes if axes.axison):
            assert axes.get_xlabel()
            assert axes.get_ylabel()
            for axis, order in ((axes.xaxis, "x"), (axes.yaxis, "y")):
                low, high = sorted(axis.get_view_interval())
                ticks = [t for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
                assert axis.get_minorticklocs().size == 0
                assert all(tick.label1.get_text() for tick in ticks)
                assert len(ticks) > (order == "y")
                boxes = [tick.label1.get_window_extent() for tick in ticks]
                ends = [(getattr(b, f"{order}0"), getattr(b, f"{order}1")) for b in boxes]
                assert all(end <= start for (_, end), (start, _) in pairwise(sorted(ends)))


def test_a_model_looks_the_same_in_every_plot(folder, grid):
    Path(grid.cells["vp-sde/em-20"].result).unlink()
    for model in grid.models:
        write_training(folder, model, steps=30)
    looks, names = looks_of(grid.file.models), {}
    for plot in ("nfe", "training"):
        figure = draw_plot(grid, plot)
        lines = [line for axes in figure.axes for line in axes.get_lines()]
        lines += figure.legends[0].get_lines()
        models = [line for line in lines if line.get_label() in looks]
        names[plot] = {line.get_label() for line in models}
        for line in models:
            look = looks[line.get_label()]
            assert to_hex(line.get_color()) == look.color.lower()
            assert line.get_marker() == look.marker
    assert names == {"nfe": {"cld", "low", "high"}, "training": set(grid.models)}


def test_few_lines_are_solid_and_many_lines_are_distinguishable():
    looks = list(looks_of(f"model {number}" for number in range(25)).values())
    assert [look.dash for look in looks[:7]] == ["solid"] * 7
    assert len({look.color for look in looks[:7]}) == len({look.marker for look in looks[:7]}) == 7
    assert len({(look.color, look.marker, str(look.dash)) for look in looks}) == 25


# --- training curves -----------------------------------------------------------------------------


def write_training(folder: Path, model: str, steps: int) -> None:
    entries = [{"step": s, "time": 1e9 + s, "loss": 1 / s} for s in range(10, steps + 1, 10)]
    write_history(folder / "models" / "mine" / model, entries)


def test_training_curves_of_the_models_that_have_been_trained(folder, grid):
    """Losses of noise and losses of images have separate panels."""
    trained = grid.models["low"]
    recipe = trained.settings.training.model_copy(update={"objective": Denoiser()})
    settings = trained.settings.model_copy(update={"training": recipe})
    models = grid.models | {"low": trained.model_copy(update={"settings": settings})}
    write_training(folder, "cld", steps=30)
    write_training(folder, "low", steps=20)
    first, second = draw_plot(replace(grid, models=models), "training").axes
    assert (first.get_ylabel(), second.get_ylabel()) == (
        "training loss of the noise",
        "training loss of the image",
    )
    points = [
        {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}
        for axes in (first, second)
    ]
    assert points == [
        {"cld": [[10, 1 / 10], [20, 1 / 20], [30, 1 / 30]]},
        {"low": [[10, 0.1], [20, 0.05]]},
    ]


def test_models_without_a_history_have_a_plot_that_says_so(folder, grid):
    """`psld.save` writes such models by default."""
    write_history(folder / "models/mine/cld", [])
    assert [text.get_text() for text in draw_plot(grid, "training").texts] == [
        "These models have no history."
    ]


def test_long_curves_are_averaged_in_bins_of_equal_logarithmic_width():
    """The first steps, in which the loss falls, must not become one point."""
    points = [(float(step), 2.0 if step % 200 else 4.0) for step in range(100, 1_000_001, 100)]
    few = thinned(points)
    assert 20 < len(few) <= MAX_POINTS
    steps, losses = zip(*few, strict=True)
    assert list(steps) == sorted(steps)
    assert steps[0] == 100
    assert losses[-1] == pytest.approx(3.0, rel=1e-2)
    assert thinned(points[:MAX_POINTS]) == points[:MAX_POINTS]
    thin = [step for step, _ in thinned([(step, 1.0) for step in range(1, 6001)])]
    assert thin[:3] == [1, 2, 3]
    ratios = [later / step for step, later in pairwise(thin[30:])]
    assert max(ratios) < 1.3 * min(ratios)


# --- the command ---------------------------------------------------------------------------------


def test_a_plot_is_written_as_png_and_svg_reproducibly(folder):
    contents, figures = [], folder / "results/figures/mine"
    for _ in range(2):
        succeeded(call(folder, "figure", "grid_name=mine", "figure=nfe"))
        contents.append({path.name: path.read_bytes() for path in figures.iterdir()})
    assert contents[0] == contents[1]
    assert contents[0].keys() == {"nfe.png", "nfe.svg"}
    with Image.open(figures / "nfe.png") as image:
        image.load()
        assert min(image.size) > 400
        assert image.convert("L").getextrema() == (0, 255)
    assert ElementTree.parse(figures / "nfe.svg").getroot().tag.endswith("svg")


def test_nothing_to_draw_is_refused(folder):
    shutil.rmtree(folder / "results")
    for name, words in (
        ("nfe", "results/cells/mine: nothing of grid mine to plot yet"),
        ("training", "models/mine: nothing of grid mine to plot yet"),
        ("samplers/longer", "figure: grid mine has no 'samplers/longer'; there are: nfe, gamma, "),
        ("samplers/cld", "samples/mine: no samples of figure samplers/cld yet"),
        ("samples/cld", "samples/mine/cld/em-10/00000"),
    ):
        refused(call(folder, "figure", "grid_name=mine", f"figure={name}"), 2, words)
    assert not (folder / "results").exists()
