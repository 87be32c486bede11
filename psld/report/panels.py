"""Panels of curves on a logarithmic axis of values, with one legend above them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, NullLocator

from psld.report.style import PANEL, PANELS_PER_ROW, SCALE_COLOR, SINGLE_PANEL_WIDTH, Look

LEGEND_LINE = 0.25  # inches

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Curve:
    """One curve of a panel: our points and those of the paper."""

    name: str
    look: Look
    ours: Points
    paper: Points = field(default_factory=list)
    mark_every: int = 1  # mark every n-th of our points
    bars: Sequence[tuple[float, float, float]] = ()  # x and both ends of each error bar


@dataclass(frozen=True)
class View:
    """One panel: its curves and their labels."""

    title: str
    group: Any  # adjacent panels of one group share their y axis
    y_label: str
    curves: Sequence[Curve]
    levels: dict[str, float] = field(default_factory=dict)  # reference values by name


def draw_panels(
    views: Sequence[View], x_label: str, set_x_axis: Callable[[Axes, list[float]], None]
) -> Figure:
    """Draw one panel for each view, in rows of about the same length.

    `set_x_axis` gets the axes of a panel and its sorted x values.
    """
    rows = math.ceil(len(views) / PANELS_PER_ROW)
    columns = math.ceil(len(views) / rows)
    width = columns * PANEL[0] if columns > 1 else SINGLE_PANEL_WIDTH
    curves = {curve.name: curve for view in views for curve in view.curves}
    handles = [Line2D([], [], label=name, **curve.look.ours()) for name, curve in curves.items()]
    if any(curve.paper for view in views for curve in view.curves):
        look = Look(SCALE_COLOR, "o")
        handles.append(Line2D([], [], label="hollow: the paper's", **look.paper()))
    longest = max(len(handle.get_label()) for handle in handles)
    legend_columns = max(1, min(int(width / (0.75 + 0.09 * longest)), len(handles)))
    height = rows * PANEL[1] + LEGEND_LINE * math.ceil(len(handles) / legend_columns)

    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    panels = list(zip(views, grid.flat, strict=False))
    for index, (view, axes) in enumerate(panels):
        axes.set(title=view.title, xlabel=x_label, yscale="log")
        for curve in view.curves:
            _draw_curve(axes, curve)
        set_x_axis(axes, sorted({x for c in view.curves for x, _ in c.ours + c.paper}))
        if index % columns == 0 or view.group != views[index - 1].group:
            axes.set_ylabel(view.y_label)
    for empty in grid.flat[len(views) :]:
        empty.set_axis_off()
    for _, group in groupby(panels, lambda panel: panel[0].group):
        _share_y_axis(list(group))
    figure.legend(handles=handles, loc="outside upper center", ncols=legend_columns)
    return figure


def _draw_curve(axes: Axes, curve: Curve) -> None:
    if curve.paper:
        axes.plot(*zip(*curve.paper, strict=True), label="_paper", **curve.look.paper())
    if curve.ours:
        x, y = zip(*curve.ours, strict=True)
        axes.plot(x, y, label=curve.name, markevery=curve.mark_every, **curve.look.ours())
    if curve.bars:
        # The axis is logarithmic: a bar that reaches below 0 goes on to the end of the axis.
        x, low, high = zip(*curve.bars, strict=True)
        low = np.maximum(low, np.finfo(float).tiny)
        axes.vlines(x, low, high, color=curve.look.color, linewidth=1, zorder=2.8)


def _share_y_axis(panels: list[tuple[View, Axes]]) -> None:
    """Give the panels of a group the same y axis, which fits all curves, and draw their levels."""
    curves = [curve for view, _ in panels for curve in view.curves]
    values = [y for curve in curves for _, y in curve.ours + curve.paper]
    room = max(1.15, (max(values) / min(values)) ** 0.12)
    low, high = min(values) / room, max(values) * room
    labeled = (1.0,)  # times powers of ten
    if high / low < 12:
        labeled = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    elif high / low < 300:
        labeled = (1.0, 2.0, 5.0)
    for view, axes in panels:
        axes.set_ylim(low, high)
        axes.yaxis.set_major_locator(LogLocator(subs=labeled, numticks=15))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        for name, value in view.levels.items():
            _draw_level(axes, name, value)


def _draw_level(axes: Axes, name: str, value: float) -> None:
    """Draw a dotted line at a level, or its name and an arrow if it is beyond the axis."""
    low, high = axes.get_ylim()
    height = math.log(value / low) / math.log(high / low)
    if 0 < height < 1:
        axes.axhline(value, color=SCALE_COLOR, linewidth=1, linestyle=":")
        # Most curves lie between the levels, so the labels are outside.
        text, side, y, above = name, "left", value, not 0.08 < height < 0.5
    elif height <= 0:
        text, side, y, above = f"↓ {name}: {value:.2g}", "left", low, True
    else:
        text, side, y, above = f"↑ {name}: {value:.3g}", "right", high, False
    axes.annotate(
        text,
        (0.02 if side == "left" else 0.98, y),
        xycoords=("axes fraction", "data"),
        xytext=(0, 2 if above else -2),
        textcoords="offset points",
        ha=side,
        va="bottom" if above else "top",
        color=SCALE_COLOR,
        fontsize=9,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
    )


def label_x_axis(axes: Axes, values: list[float], labels: str) -> None:
    """Label the sorted values on the x axis, except those too close to the label before.

    Set the scale of the axis first. `labels` is a format, such as "{x:g}".
    """
    labeled, last = [], -math.inf
    for value in values:
        place = axes.transAxes.inverted().transform(axes.transData.transform((value, 1)))[0]
        if place - last >= 0.14:  # of the axis's length
            labeled.append(value)
            last = place
    axes.xaxis.set_major_locator(FixedLocator(labeled))
    axes.xaxis.set_major_formatter(labels)
    axes.xaxis.set_minor_locator(FixedLocator(values))
    axes.xaxis.set_minor_formatter(NullFormatter())
