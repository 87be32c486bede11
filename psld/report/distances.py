"""Distances against network evaluations, and against Γ; the paper's points beside ours."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from psld.grid.figures import Panel, friction_of, gamma_panels, nfe_panels
from psld.report.panels import Curve, View, draw_panels, label_places
from psld.report.style import Look, model_looks, ramp
from psld.grid.loading import Grid
from psld.grid.schema import Evaluation
from psld.grid.results import paper_values, read_result

Point = tuple[float, float]


def plot_nfe(grid: Grid, cells: Path) -> Figure | None:
    """Distance against network evaluations: one panel a sampler family, one line a model.

    None where no cell has been run.
    """
    looks, papers = model_looks(grid), paper_values(grid)

    def ours(_: Evaluation, result: dict[str, Any]) -> Point:
        return result["nfe"], result["value"]

    def paper(evaluation: Evaluation) -> Point | None:
        printed = papers.get(evaluation, {})
        nfe = printed.get("nfe") or grid.samplers[evaluation.sampler].settings.get("steps")
        return (nfe, printed["value"]) if nfe and "value" in printed else None

    views = _views(grid, nfe_panels(grid), cells, looks, ours, paper)
    return views and draw_panels(views, "network evaluations (NFE)", _logarithmic)


def plot_gamma(grid: Grid, cells: Path) -> Figure | None:
    """Distance against Γ: one panel a sampler family, one line a budget.

    None where no cell has been run.
    """
    panels, papers = gamma_panels(grid), paper_values(grid)
    looks = ramp(list(dict.fromkeys(line for panel in panels for line in panel.lines)))

    def ours(evaluation: Evaluation, result: dict[str, Any]) -> Point:
        return friction_of(grid, evaluation.model), result["value"]

    def paper(evaluation: Evaluation) -> Point | None:
        printed = papers.get(evaluation, {})
        if "value" not in printed:
            return None
        return friction_of(grid, evaluation.model), printed["value"]

    views = _views(grid, panels, cells, looks, ours, paper)
    return views and draw_panels(views, "friction Γ on the position", _from_zero)


def _views(
    grid: Grid, panels: list[Panel], cells: Path, looks: dict[str, Look], ours: Any, paper: Any
) -> list[View]:
    """The panels with the results that there are; none where there are none at all."""
    several = len({panel.dataset for panel in panels}) > 1
    views, measured = [], False
    for panel in panels:
        curves, levels = [], {}
        for name, evaluations in panel.lines.items():
            results = [(e, read_result(grid, cells, e)) for e in evaluations]
            found = [(e, result) for e, result in results if result]
            printed = [point for e in evaluations if (point := paper(e))]
            points = sorted(ours(e, result) for e, result in found)
            curves.append(Curve(name, looks[name], points, sorted(printed)))
            for _, result in found:
                levels = levels_of(result)
        measured |= any(curve.ours for curve in curves)
        curves = [curve for curve in curves if curve.ours or curve.paper]
        title = f"{panel.dataset}, {panel.family}" if several else panel.family
        values = f"{panel.metric}, {panel.samples:,} samples"
        views += [View(title, panel.group, values, curves, levels)] if curves else []
    return views if measured else []


def levels_of(result: dict[str, Any]) -> dict[str, float]:
    """What gives a distance its scale: that of pure noise, and that of held-out images."""
    levels = {"noise": result["noise"], "test split": result["floor"]}
    return {name: value for name, value in levels.items() if value}


def _logarithmic(axes: Axes, nfe: list[float]) -> None:
    axes.set_xscale("log")
    axes.margins(x=0.1)
    label_places(axes, nfe, lambda place: f"{place:.0f}")


def _from_zero(axes: Axes, gammas: list[float]) -> None:
    """Logarithmic, but for the way from 0, which is CLD, to the smallest Γ."""
    axes.set_xscale("symlog", linthresh=min(filter(None, gammas), default=1.0), linscale=0.5)
    axes.margins(x=0.08)
    label_places(axes, gammas, lambda place: f"{place:g}")
