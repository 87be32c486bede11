"""The plots of a grid: distance against network evaluations or Γ, and training curves.

Bars are the 95 % intervals of distances.

Each function raises UserError if there is nothing to plot yet.
"""

from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from psld.grid.entries import paper_values, read_results
from psld.grid.figures import Panel, friction, gamma_panels, nfe_panels, trained_models
from psld.grid.records import Grid
from psld.grid.tables import Number
from psld.report.panels import Curve, Points, View, draw_panels, label_x_axis
from psld.report.style import Look, model_looks, ramp
from psld.training.history import HISTORY, TrainingHistory
from psld.utils.errors import UserError

MAX_POINTS = 60  # of a training curve


def plot_nfe(grid: Grid) -> Figure:
    """Plot distance against network evaluations: a panel per sampler family, a line per model."""
    views = _views(grid, nfe_panels(grid), model_looks(grid), lambda _, nfe: nfe)
    return draw_panels(views, "network evaluations (NFE)", _logarithmic_nfe)


def plot_gamma(grid: Grid) -> Figure:
    """Plot distance against Γ: a panel per sampler family, a line per budget."""
    panels = gamma_panels(grid)
    looks = ramp(list(dict.fromkeys(line for panel in panels for line in panel.lines)))
    views = _views(grid, panels, looks, lambda number, _: friction(grid, number.model))
    return draw_panels(views, "friction Γ on the position", _logarithmic_gamma)


def _views(
    grid: Grid,
    panels: list[Panel],
    looks: dict[str, Look],
    x_value: Callable[[Number, float | None], float | None],
) -> list[View]:
    """Return the panels that have points. Raises UserError if no cell is measured yet.

    `x_value` maps a number and its network evaluations to a place on the x axis.
    """
    papers = paper_values(grid)
    several_datasets = len({panel.dataset for panel in panels}) > 1
    views = []
    for panel in panels:
        curves, levels = [], {}
        for name, numbers in panel.lines.items():
            ours, paper, bars = [], [], []
            for number in numbers:
                measured = read_results(grid, number)
                interval = measured.interval()
                if interval and interval.value > 0:  # the axis is logarithmic
                    x = x_value(number, fmean(measured.values("nfe")))
                    ours.append((x, interval.value))
                    bars.append((x, interval.low, interval.high))
                    first = measured.results[0]
                    levels = {"noise": first.noise, "test split": first.floor}
                printed = papers.get(number, {})
                steps = getattr(grid.cell(number).sampler.settings, "steps", None)
                x = x_value(number, printed.get("nfe") or steps)
                if x is not None and "value" in printed:
                    paper.append((x, printed["value"]))
            if ours or paper:
                curves.append(Curve(name, looks[name], sorted(ours), sorted(paper), bars=bars))
        if curves:
            title = f"{panel.dataset}, {panel.sampler}" if several_datasets else panel.sampler
            y_label = f"{panel.metric}, {panel.samples:,} samples"
            levels = {name: level for name, level in levels.items() if level and level > 0}
            views.append(View(title, panel.group, y_label, curves, levels))
    if not any(curve.ours for view in views for curve in view.curves):
        raise UserError(f"results/cells/{grid.name}: nothing of grid {grid.name} to plot yet")
    return views


def _logarithmic_nfe(axes: Axes, nfe: list[float]) -> None:
    axes.set_xscale("log")
    axes.margins(x=0.1)
    label_x_axis(axes, nfe, "{x:.0f}")


def _logarithmic_gamma(axes: Axes, gammas: list[float]) -> None:
    """Set up an axis that is linear from 0 (CLD) to the smallest Γ, then logarithmic."""
    axes.set_xscale("symlog", linthresh=min(filter(None, gammas), default=1.0), linscale=0.5)
    axes.margins(x=0.08)
    label_x_axis(axes, gammas, "{x:g}")


def plot_training(grid: Grid) -> Figure:
    """Plot the training loss against steps: a panel per dataset, a line per model."""
    looks = model_looks(grid)
    curves: dict[str, list[Curve]] = {}
    for name in trained_models(grid):
        path = Path(grid.models[name].folder, HISTORY)
        entries = TrainingHistory.read(path).entries if path.exists() else []
        if points := thinned([(entry.step, entry.loss) for entry in entries]):
            curve = Curve(name, looks[name], points, mark_every=max(1, len(points) // 8))
            curves.setdefault(grid.models[name].dataset, []).append(curve)
    views = [View(dataset, "all", "training loss", lines) for dataset, lines in curves.items()]
    if not views:
        raise UserError(f"models/{grid.name}: nothing of grid {grid.name} to plot yet")
    return draw_panels(views, "training step", lambda axes, _: axes.set_xscale("log"))


def thinned(points: Points) -> Points:
    """Average the points in at most MAX_POINTS bins, equally wide on a logarithmic axis."""
    if len(points) <= MAX_POINTS:
        return points
    steps, losses = np.array(points).T
    edges = np.geomspace(steps[0], steps[-1], MAX_POINTS + 1)[1:-1]
    bins = np.digitize(steps, edges)
    counts = np.bincount(bins)
    filled = counts > 0
    means = [np.bincount(bins, values)[filled] / counts[filled] for values in (steps, losses)]
    return list(zip(*np.array(means).tolist(), strict=True))
