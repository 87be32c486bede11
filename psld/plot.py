"""Plot: distance against network evaluations, one panel a sampler, one line a model.

python -m psld.plot grid_name=demo
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib

from psld.cli import CONFIGS, entry_point
from psld.errors import UserError
from psld.files import atomic_path
from psld.grid import Grid, load_grid
from psld.results import read_result
from psld.settings import Settings

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

# Okabe and Ito's palette, which colour-blind readers can tell apart; markers serve in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

Points = dict[str, dict[str, list[tuple[float, float]]]]
"""sampler family → model → (NFE, distance)."""


class PlotSettings(Settings):
    """Settings of `python -m psld.plot`."""

    grid_name: str
    """Name of the grid, configs/grid/NAME.yaml."""
    cells: Path
    """Folder of the grid's metrics files."""
    output: str
    """Path of the pictures without their ending: a PNG and an SVG."""


@entry_point("plot", PlotSettings)
def main(settings: PlotSettings) -> None:
    grid = load_grid(settings.grid_name, CONFIGS)
    points, scale = read_points(grid, settings.cells)
    if not points:
        raise UserError(f"{settings.cells}: no results of grid {settings.grid_name} yet")
    figure = draw(grid, points, scale)
    for ending in ("png", "svg"):
        with atomic_path(f"{settings.output}.{ending}") as partial:
            figure.savefig(partial, format=ending, dpi=150, bbox_inches="tight")


def read_points(grid: Grid, cells: Path) -> tuple[Points, dict[str, Any]]:
    """All results that the plot shows, and one of them for its scale."""
    points: Points = defaultdict(lambda: defaultdict(list))
    scale: dict[str, Any] = {}
    for evaluation in grid.plotted:
        result = read_result(cells, evaluation)
        if result:
            family = grid.file.family_of(evaluation.sampler)
            points[family][evaluation.model].append((result["nfe"], result["value"]))
            scale = result
    return points, scale


def draw(grid: Grid, points: Points, scale: dict[str, Any]) -> plt.Figure:
    """One panel a sampler family, with shared logarithmic axes."""
    figure, panels = plt.subplots(
        1,
        len(points),
        figsize=(3.0 * len(points), 3.4),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, (family, lines) in zip(panels[0], points.items(), strict=True):
        for index, model in enumerate(grid.models):
            if model in lines:
                nfe, value = zip(*sorted(lines[model]), strict=True)
                style = {"color": COLOURS[index % 7], "marker": MARKERS[index % 7]}
                axes.plot(nfe, value, label=model, markersize=5, linewidth=1.4, **style)
        _decorate(axes, family, sorted({nfe for line in lines.values() for nfe, _ in line}), scale)
    panels[0][0].set_ylabel(f"{grid.file.metric}, {grid.file.samples:,} samples")
    handles = {line.get_label(): line for axes in panels[0] for line in axes.get_lines()}
    shown = [handles[model] for model in grid.models if model in handles]
    figure.legend(handles=shown, loc="outside upper center", ncols=len(shown), frameon=False)
    return figure


def _decorate(axes: Axes, family: str, nfe: list[float], scale: dict[str, Any]) -> None:
    axes.set(xscale="log", yscale="log", title=family, xlabel="network evaluations (NFE)")
    axes.xaxis.set_major_locator(FixedLocator(_far_apart(nfe)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    for key, text in (("noise", "noise"), ("floor", "test split")):
        if scale[key]:
            axes.axhline(scale[key], color="0.6", linewidth=0.8, linestyle="--")
            axes.annotate(
                text, (0.02, scale[key]), xycoords=("axes fraction", "data"), color="0.4",
                fontsize=7, va="bottom",
            )  # fmt: skip
    axes.grid(alpha=0.25, which="both")


def _far_apart(values: list[float], factor: float = 1.35) -> list[float]:
    """Some of the ascending values, so that their labels do not touch on a logarithmic axis."""
    kept: list[float] = []
    for value in values:
        if not kept or value > factor * kept[-1]:
            kept.append(value)
    return kept


if __name__ == "__main__":
    main()
