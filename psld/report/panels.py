"""Panels of lines side by side, with a legend above: the frame of every plot of a grid."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from psld.report.style import PANEL, PANELS_A_ROW, SCALE, SINGLE, Look

LEGEND_LINE = 0.25
"""Inches of a line of the legend."""

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Curve:
    """One line of a panel."""

    name: str
    look: Look
    ours: Points
    paper: Points = field(default_factory=list)
    """What the paper says of the same."""
    marked: int = 1
    """Every how manieth of our points has a marker."""


@dataclass(frozen=True)
class View:
    """One panel as it is drawn."""

    title: str
    group: Any
    """Panels of one group follow each other and share their axis of values."""
    values: str
    """What the axis of values says."""
    curves: Sequence[Curve]
    levels: dict[str, float] = field(default_factory=dict)
    """Values that give the group its scale, by name."""


def draw_panels(
    views: Sequence[View], places: str, decorate: Callable[[Axes, list[float]], None]
) -> Figure:
    """One panel for each view, in rows of about the same length; values on a logarithmic axis.

    Args:
        places: what the other axis says.
        decorate: sets up the other axis, given all places of the panel, ascending.
    """
    rows = -(-len(views) // PANELS_A_ROW)
    columns = -(-len(views) // rows)
    width = columns * PANEL[0] if columns > 1 else SINGLE
    handles = _handles(views)
    in_legend = _columns_of_legend(handles, width)
    height = rows * PANEL[1] + LEGEND_LINE * -(-len(handles) // in_legend)
    figure, panels = plt.subplots(
        rows, columns, figsize=(width, height), squeeze=False, layout="constrained"
    )
    for view, axes in zip(views, panels.flat, strict=False):
        _draw(view, axes)
        decorate(axes, sorted({x for c in view.curves for x, _ in c.ours + c.paper}))
        axes.set_xlabel(places)
    for empty in panels.flat[len(views) :]:
        empty.set_axis_off()
    for _, drawn in groupby(zip(views, panels.flat, strict=False), lambda one: one[0].group):
        _share_values(list(drawn))
    for place, axes in enumerate(panels.flat[: len(views)]):
        if place % columns == 0 or views[place].group != views[place - 1].group:
            axes.set_ylabel(views[place].values)
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=in_legend,
        frameon=False,
        handlelength=2.8,
    )
    return figure


def _draw(view: View, axes: Axes) -> None:
    axes.set(title=view.title, yscale="log")
    for curve in view.curves:
        if curve.paper:
            axes.plot(*zip(*curve.paper, strict=True), label="_paper", **curve.look.paper())
        if curve.ours:
            axes.plot(
                *zip(*curve.ours, strict=True),
                label=curve.name,
                markevery=curve.marked,
                **curve.look.ours(),
            )


def _share_values(group: list[tuple[View, Axes]]) -> None:
    """Give panels one axis of values, as long as their lines need, and show their levels."""
    curves = [curve for view, _ in group for curve in view.curves]
    low, high = _range([value for c in curves for _, value in c.ours + c.paper])
    for view, axes in group:
        axes.set_ylim(low, high)
        axes.yaxis.set_major_locator(LogLocator(subs=_labelled(high / low), numticks=15))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        for name, value in view.levels.items():
            _show_level(axes, name, value)


def _range(values: list[float], margin: float = 0.12) -> tuple[float, float]:
    """The ends of a logarithmic axis for these values."""
    room = max(1.15, (max(values) / min(values)) ** margin)
    return min(values) / room, max(values) * room


def _labelled(ratio: float) -> tuple[float, ...]:
    """Which multiples of powers of ten have a label, on an axis from a value to `ratio` of it."""
    if ratio < 12:
        return (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    return (1.0, 2.0, 5.0) if ratio < 300 else (1.0,)


def _show_level(axes: Axes, name: str, value: float) -> None:
    """A line where the axis reaches so far, else a word at its end with an arrow beyond it."""
    low, high = axes.get_ylim()
    part = math.log(value / low) / math.log(high / low)
    if 0 < part < 1:
        axes.axhline(value, color=SCALE, linewidth=1, linestyle=":")
        # Lines seldom cross a level, and lie between the levels.
        text, side, at, above = name, "left", value, not 0.08 < part < 0.5
    elif part <= 0:
        text, side, at, above = f"↓ {name}: {value:.2g}", "left", low, True
    else:
        text, side, at, above = f"↑ {name}: {value:.3g}", "right", high, False
    axes.annotate(
        text,
        (0.02 if side == "left" else 0.98, at),
        xycoords=("axes fraction", "data"),
        xytext=(0, 2 if above else -2),
        textcoords="offset points",
        ha=side,
        va="bottom" if above else "top",
        color=SCALE,
        fontsize=9,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
    )


def _handles(views: Sequence[View]) -> list[Line2D]:
    shown = {curve.name: curve for view in views for curve in view.curves}
    handles = [Line2D([], [], label=name, **c.look.ours()) for name, c in shown.items()]
    if any(curve.paper for view in views for curve in view.curves):
        handles.append(Line2D([], [], label="hollow: the paper's", **Look(SCALE, "o").paper()))
    return handles


def _columns_of_legend(handles: list[Line2D], inches: float) -> int:
    """As many columns as fit the width, by the number of letters of the longest name."""
    longest = max(len(handle.get_label()) for handle in handles)
    fitting = int(inches / (0.75 + 0.09 * longest))
    return max(1, min(fitting, len(handles)))


def label_places(axes: Axes, places: list[float], words: Callable[[float], str]) -> None:
    """Label places where there is something to see, as far as their labels do not touch.

    The axis must have its scale already.
    """
    axes.xaxis.set_major_locator(FixedLocator(_far_apart(axes, places)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda place, _: words(place)))
    axes.xaxis.set_minor_locator(FixedLocator(places))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _far_apart(axes: Axes, places: list[float], least: float = 0.14) -> list[float]:
    """The first of the ascending places, and what is `least` of the axis's length further on."""
    kept: list[tuple[float, float]] = []
    for place in places:
        at = axes.transAxes.inverted().transform(axes.transData.transform((place, 1)))[0]
        if not kept or at - kept[-1][1] >= least:
            kept.append((place, at))
    return [place for place, _ in kept]
