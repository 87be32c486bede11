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
    """All results of the grid's own metric and sample count, and one result for its scale."""
    points: Points = defaultdict(lambda: defaultdict(list))
    scale: dict[str, Any] = {}
    for evaluation in grid.evaluations:
        if (evaluation.metric, evaluation.samples) != (grid.file.metric, grid.file.samples):
            continue
        result = read_result(cells, evaluation)
        if result:
            family = grid.file.family_of(evaluation.sampler)
            points[family][evaluation.model].append((result["nfe"], result["value"]))
            scale = result
    return points, scale


def draw(grid: Grid, points: Points, scale: dict[str, Any]) -> plt.Figure:
    """One panel a sampler family, with shared logarithmic axes."""
    figure, panels = plt.subplots(
        1, len(points), figsize=(3.2 * len(points), 3.4), sharey=True, squeeze=False
    )
    for axes, (family, lines) in zip(panels[0], points.items(), strict=True):
        for index, model in enumerate(grid.models):
            if model in lines:
                nfe, value = zip(*sorted(lines[model]), strict=True)
                style = {"color": COLOURS[index % 7], "marker": MARKERS[index % 7]}
                axes.plot(nfe, value, label=model, markersize=5, linewidth=1.4, **style)
        _decorate(axes, family, scale)
    panels[0][0].set_ylabel(f"{grid.file.metric}, {grid.file.samples:,} samples")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return figure


def _decorate(axes: Axes, family: str, scale: dict[str, Any]) -> None:
    axes.set(xscale="log", yscale="log", title=family, xlabel="network evaluations (NFE)")
    for key, text in (("noise", "noise"), ("floor", "test split")):
        if scale[key]:
            axes.axhline(scale[key], color="0.6", linewidth=0.8, linestyle="--")
            axes.annotate(
                text, (0.02, scale[key]), xycoords=("axes fraction", "data"), color="0.4",
                fontsize=7, va="bottom",
            )  # fmt: skip
    axes.grid(alpha=0.25, which="both")


if __name__ == "__main__":
    main()
