"""The plots of a grid, and the style of all figures.

A plot has panels of curves with logarithmic y axes, and one legend above the panels. Error bars are
the 95 % intervals of distances. Color-blind readers can distinguish the colors (the palette of
Okabe and Ito); markers and line styles distinguish the lines in a gray print. Figures are narrow
enough to be readable on a phone.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import cycle, groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, rc
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, Locator, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from psld.grid.cells import Cell, Grid
from psld.grid.figures import LineGroup, gamma_lines, nfe_lines, trained_models
from psld.grid.rows import paper_values
from psld.training.files import HISTORY, TrainingHistory
from psld.utils.errors import UserError
from psld.utils.files import atomic_path

rc("font", size=11)
rc("axes", titlesize=11, labelsize=11, grid=True, axisbelow=True)
rc("axes.spines", top=False, right=False)
rc("xtick", labelsize=10)
rc("ytick", labelsize=10)
rc("legend", fontsize=10.5, frameon=False, handlelength=2.8)
rc("grid", color="0.9")
rc("savefig", dpi=220)
rc("svg", hashsalt="psld")  # so that equal figures give identical files

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*")
DASHES = ("solid", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)))

# Sizes in inches.
PANEL = (3.3, 3.1)
SINGLE_PANEL_WIDTH = 5.0
PANELS_PER_ROW = 2
PAGE_WIDTH = PANELS_PER_ROW * PANEL[0]
LEGEND_LINE = 0.25

# Sizes in points.
LINE_WIDTH = 1.6
MARKER_SIZE = 6.5
# The distance between adjacent error bars, and the largest distance between the outermost bars:
APART, SPREAD = 4.0, 20.0

LEAST_TICKS = 3
MAX_POINTS = 60  # largest number of points of a training curve
LONGEST_BAR = 10  # Error bars are cut off at the value divided by this number.

SCALE_COLOR = "0.45"  # color of the noise line, and of the paper's marker in the legend
NOISE = {"color": SCALE_COLOR, "linewidth": 1, "linestyle": ":", "zorder": 1}
"""The style of the noise line, which marks the distance of pure noise, behind all curves."""
HOLE_COLOR = (0, 114, 178)  # color of missing pixels; neither black nor white in a gray print

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Look:
    color: str
    marker: str
    dash: Any = "solid"

    def ours(self) -> dict[str, Any]:
        return {
            "color": self.color,
            "marker": self.marker,
            "linestyle": self.dash,
            "linewidth": LINE_WIDTH,
            "markersize": MARKER_SIZE,
            "markeredgecolor": "white",  # separates overlapping markers
            "markeredgewidth": 0.5,
            "zorder": 3,
        }

    def paper(self) -> dict[str, Any]:
        """Return the style for the paper's numbers: large, hollow markers on a thin line."""
        return self.ours() | {
            "linewidth": 0.7,
            "markersize": 1.7 * MARKER_SIZE,
            "markerfacecolor": "none",
            "markeredgecolor": self.color,
            "markeredgewidth": 1.0,
            "zorder": 2.5,
        }


def looks_of(names: Iterable[str]) -> dict[str, Look]:
    """Return a look for each model or each sampler, the same in all figures of a grid."""
    looks = {}
    for index, name in enumerate(names):
        color, marker = COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)]
        looks[name] = Look(color, marker, DASHES[index // len(COLORS) % len(DASHES)])
    return looks


def ramp(names: Sequence[str]) -> dict[str, Look]:
    """Return looks with colors from light to dark, for lines that are not models or samplers."""
    shades = colormaps["viridis_r"](np.linspace(0.15, 1, len(names) + 1)[1:])
    looks = zip(names, shades, cycle(MARKERS), strict=False)
    return {name: Look(to_hex(shade), marker) for name, shade, marker in looks}


@dataclass(frozen=True)
class Curve:
    name: str
    look: Look
    ours: Points
    paper: Points = field(default_factory=list)
    bars: Sequence[tuple[float, float, float]] = ()  # x and both ends of each error bar
    arrows: Points = field(default_factory=list)  # lower ends of error bars that are cut off


@dataclass(frozen=True)
class Panel:
    title: str
    axis: object  # Adjacent panels with an equal `axis` share their y axis.
    y_label: str
    curves: list[Curve]
    noise: float | None = None
    """The distance of pure noise; None if it is unknown or not positive."""


def draw_plot(grid: Grid, name: str) -> Figure:
    """Draw the plot `name` of a grid. Raises UserError if there is nothing to plot yet."""
    if name == "nfe":  # a line for each model or sampler
        looks = looks_of(grid.file.samplers) | looks_of(grid.file.models)
        panels = _panels(grid, nfe_lines(grid), looks, lambda _, nfe: nfe)
        return _draw_panels(panels, "network evaluations (NFE)", _logarithmic_nfe)
    if name == "gamma":  # a line for each budget
        groups, gamma = gamma_lines(grid), attrgetter("model.settings.process.gamma")
        looks = ramp(list(dict.fromkeys(line for group in groups for line in group.lines)))
        panels = _panels(grid, groups, looks, lambda cell, _: gamma(cell))
        return _draw_panels(panels, "friction Γ on the position", _logarithmic_gamma)
    return _plot_training(grid)


def _panels(
    grid: Grid,
    groups: list[LineGroup],
    looks: dict[str, Look],
    x_value: Callable[[Cell, float | None], float | None],
) -> list[Panel]:
    """Return the panels that have points. Raises UserError if no cell is measured yet.

    Args:
        x_value: maps a cell and its network evaluations to the x coordinate of its point.
    """
    papers, label, panels = paper_values(grid), grid.file.label, []
    # If the panels of samplers show several datasets, their titles name the dataset. The panel of a
    # model needs no dataset in its title, because each model has only one dataset.
    several_datasets = len({g.dataset for g in groups if g.panel in grid.file.samplers}) > 1
    for group in groups:
        curves, noise = [], None
        for name, entries in group.lines.items():
            ours, paper, bars, arrows = [], [], [], []
            for entry in (entry.read() for entry in entries):
                interval = entry.interval
                if interval and interval.value > 0:  # the axis is logarithmic
                    x, first = x_value(entry.cell, entry.nfe), entry.results[0]
                    ours.append((x, interval.value))
                    low = max(interval.low, interval.value / LONGEST_BAR)
                    bars.append((x, low, interval.high))
                    arrows += [(x, low)] if low > interval.low else []
                    noise = first.noise if first.noise and first.noise > 0 else None
                printed = papers.get(entry.number, {})
                steps = getattr(entry.cell.sampler.settings, "steps", None)
                x = x_value(entry.cell, printed.get("nfe") or steps)
                if x is not None and "value" in printed:
                    paper.append((x, printed["value"]))
            if ours or paper:
                points = sorted(ours), sorted(paper)
                curves.append(Curve(label(name), looks[name], *points, bars, arrows))
        if curves:
            dataset = f"{group.dataset}, " if several_datasets else ""
            title = f"{dataset}{label(group.panel)}"
            y_label = f"{group.metric} of {group.samples:,} samples"
            panels.append(Panel(title, group.axis, y_label, curves, noise))
    if not any(curve.ours for panel in panels for curve in panel.curves):
        raise UserError(f"results/cells/{grid.name}: nothing of grid {grid.name} to plot yet")
    return panels


def _logarithmic_nfe(axes: Axes, nfe: list[float]) -> None:
    axes.set_xscale("log")
    axes.margins(x=0.1)
    _label_x_axis(axes, nfe, "{x:.0f}")


def _logarithmic_gamma(axes: Axes, gammas: list[float]) -> None:
    """Set up an axis that is linear from 0 (CLD) to the smallest Γ, then logarithmic."""
    axes.set_xscale("symlog", linthresh=min(filter(None, gammas), default=1.0), linscale=0.5)
    axes.margins(x=0.08)
    _label_x_axis(axes, gammas, "{x:g}")


def _logarithmic_steps(axes: Axes, steps: list[float]) -> None:
    axes.set_xscale("log")
    _label_x_axis(
        axes, LogLocator(subs=(1.0, 2.0, 5.0)).tick_values(steps[0], steps[-1]), "{x:,.0f}"
    )


def _plot_training(grid: Grid) -> Figure:
    looks = looks_of(grid.file.models)
    panels: dict[tuple[str, str], Panel] = {}
    models = [grid.models[name] for name in trained_models(grid)]
    for model in models:
        path = Path(model.folder, HISTORY)
        entries = TrainingHistory.read(path).entries if path.exists() else []
        if points := thinned([(entry.step, entry.loss) for entry in entries]):
            target = "image" if model.settings.serves_every_process else "noise"
            panel = Panel(model.dataset, target, f"training loss of the {target}", [])
            panel = panels.setdefault((target, model.dataset), panel)
            panel.curves.append(Curve(grid.file.label(model.name), looks[model.name], points))
    if not panels and not any(Path(model.folder, HISTORY).exists() for model in models):
        raise UserError(f"models/{grid.name}: nothing of grid {grid.name} to plot yet")
    if not panels:  # All models were saved from Python, without a history.
        figure = Figure(figsize=PANEL)
        figure.text(0.5, 0.5, "These models have no history.", ha="center")
        return figure
    by_loss = sorted(panels.values(), key=lambda panel: panel.y_label, reverse=True)
    return _draw_panels(by_loss, "training step", _logarithmic_steps)


def thinned(points: Points) -> Points:
    """Average points in at most MAX_POINTS bins, which are equally wide on a logarithmic axis."""
    if len(points) <= MAX_POINTS:
        return points
    steps, losses = np.array(points).T
    edges = np.geomspace(steps[0], steps[-1], MAX_POINTS + 1)[1:-1]
    bins = np.digitize(steps, edges)
    counts = np.bincount(bins)
    filled = counts > 0
    means = [np.bincount(bins, values)[filled] / counts[filled] for values in (steps, losses)]
    return list(zip(*np.array(means).tolist(), strict=True))


def save(figure: Figure, output: str) -> None:
    """Write a figure atomically as OUTPUT.png and OUTPUT.svg, and print both paths."""
    for ending, metadata in (("svg", {"Date": None}), ("png", {})):
        with atomic_path(f"{output}.{ending}") as partial:
            figure.savefig(partial, format=ending, bbox_inches="tight", metadata=metadata)
    print(f"wrote {output}.png and {output}.svg")


def _draw_panels(
    panels: Sequence[Panel], x_label: str, set_x_axis: Callable[[Axes, list[float]], None]
) -> Figure:
    """Draw panels in rows of equal length.

    Args:
        set_x_axis: called for each panel, with its axes and its sorted x values.
    """
    rows = math.ceil(len(panels) / PANELS_PER_ROW)
    columns = math.ceil(len(panels) / rows)
    width = columns * PANEL[0] if columns > 1 else SINGLE_PANEL_WIDTH
    curves = {curve.name: curve for panel in panels for curve in panel.curves}
    handles = [Line2D([], [], label=name, **curve.look.ours()) for name, curve in curves.items()]
    if any(curve.paper for panel in panels for curve in panel.curves):
        look = Look(SCALE_COLOR, "o")
        handles.append(Line2D([], [], label="hollow: the paper's", **look.paper()))
    if noise := {panel.noise for panel in panels if panel.noise}:
        label = f"noise: {', '.join(f'{value:.2g}' for value in sorted(noise))}"
        handles.append(Line2D([], [], label=label, **NOISE))
    longest = max(len(str(handle.get_label())) for handle in handles)
    legend_columns = max(1, min(int(width / (0.75 + 0.075 * longest)), len(handles)))
    height = rows * PANEL[1] + LEGEND_LINE * math.ceil(len(handles) / legend_columns)

    figure = Figure(figsize=(width, height), layout="constrained")
    subplots = figure.subplots(rows, columns, squeeze=False)
    pairs = list(zip(panels, subplots.flat, strict=False))
    for panel, axes in pairs:
        axes.set(xlabel=x_label, yscale="log")
        axes.set_title(panel.title, parse_math=False)
        middle = (len(panel.curves) - 1) / 2
        for place, curve in enumerate(panel.curves):
            _draw_curve(axes, curve, (place - middle) * min(APART, SPREAD / len(panel.curves)))
        set_x_axis(axes, sorted({x for c in panel.curves for x, _ in c.ours + c.paper}))
        axes.set_ylabel(panel.y_label)
    for empty in subplots.flat[len(panels) :]:
        empty.set_axis_off()
    for _, alike in groupby(pairs, lambda pair: pair[0].axis):
        _share_y_axis(list(alike))
    legend = figure.legend(handles=handles, loc="outside upper center", ncols=legend_columns)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _draw_curve(axes: Axes, curve: Curve, shift: float) -> None:
    """Draw a curve. A curve with error bars is shifted by `shift` points, away from other bars."""
    drawn = []
    if curve.paper:
        drawn += axes.plot(*zip(*curve.paper, strict=True), label="_paper", **curve.look.paper())
    if curve.ours:
        x, y = zip(*curve.ours, strict=True)
        every = max(1, len(x) // 8)
        drawn += axes.plot(x, y, label=curve.name, markevery=every, **curve.look.ours())
    if curve.bars:
        look = {"color": curve.look.color, "zorder": 2.8}
        drawn.append(axes.vlines(*zip(*curve.bars, strict=True), linewidth=1, **look))
        if curve.arrows:
            drawn += axes.plot(*zip(*curve.arrows, strict=True), "v", label="_arrows", **look)
        move = ScaledTranslation(shift / 72, 0, axes.figure.dpi_scale_trans)
        for artist in drawn:  # Moving an artist after it was drawn keeps the limits of the axes.
            artist.set_transform(axes.transData + move)


def _share_y_axis(pairs: list[tuple[Panel, Axes]]) -> None:
    """Give panels the same y limits, which include all curves and bars, and draw the noise line."""
    curves = [curve for panel, _ in pairs for curve in panel.curves]
    values = [y for curve in curves for _, y in curve.ours + curve.paper]
    values += [end for curve in curves for _, *ends in curve.bars for end in ends]
    room = max(1.15, (max(values) / min(values)) ** 0.12)
    low, high = min(values) / room, max(values) * room
    for panel, axes in pairs:
        axes.set_ylim(low, high)
        axes.yaxis.set_major_locator(_ticks(low, high))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        if panel.noise and low < panel.noise < high:
            axes.axhline(panel.noise, **NOISE)


def _ticks(low: float, high: float) -> Locator:
    """Return the ticks of a logarithmic axis: powers of ten if there are at least LEAST_TICKS."""
    for multiples in ((1.0,), (1.0, 2.0, 5.0)):
        ticks = LogLocator(subs=multiples, numticks=15)
        if sum(low <= tick <= high for tick in ticks.tick_values(low, high)) >= LEAST_TICKS:
            return ticks
    return MaxNLocator(5)


def _label_x_axis(axes: Axes, values: Iterable[float], labels: str) -> None:
    """Label sorted values in the format `labels`, except values too close to the previous label."""
    labeled, last = [], -math.inf
    for value in values:
        place = axes.transAxes.inverted().transform(axes.transData.transform((value, 1)))[0]
        if place - last >= 0.14:  # fraction of the axis length
            labeled.append(value)
            last = place
    axes.xaxis.set_major_locator(FixedLocator(labeled))
    axes.xaxis.set_major_formatter(labels)
    axes.xaxis.set_minor_locator(NullLocator())
