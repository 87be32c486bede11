"""The figures of a grid, their contents and their captions.

Figures of images show the first seed of each cell; plots show the mean over all seeds. A panel of a
plot shows cells with comparable numbers: they have the same dataset, metric and number of samples,
the same model or sampler family, and no guidance.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from operator import attrgetter
from typing import Any, Literal

from psld.grid.cells import Cell, Grid
from psld.grid.entries import Entry
from psld.grid.rows import cells_behind, distances, entries_in, paper_values
from psld.utils.files import digest_of

PLOTS = {
    "nfe": "Distance against network evaluations",
    "gamma": "Distance against friction Γ",
    "training": "Training curves",
}
"""The plots of numbers that a grid may have. The keys are their names, the values their titles."""

FIRST = ("Samples", "Compared by the grid")

LEAST_FRICTIONS = 3
"""The smallest number of points in a line over Γ: two points show little of the dependence on Γ."""

_DRAW = "in all models with equally many blocks of variables"
CAPTIONS = {
    "samples": (
        "The first samples, not chosen, above a row of training images. Samples at the same place "
        f"in other figures start from the same random draw, {_DRAW}."
    ),
    "inpainted": (
        "The first samples, not chosen, below the images with their holes (blue) and above the "
        "originals."
    ),
    "classes": "The first samples of each class, not chosen, above a row of training images.",
    "comparison": (
        "The first samples, not chosen, above a row of training images. The samples of a column "
        f"start from the same random draw, {_DRAW}."
    ),
    "nearest": (
        "The measured samples that are nearest to a training image in the features of the metric, "
        "above these images. A copied training image would appear here."
    ),
    "nfe": (
        "The metrics by network evaluations per image, for cells that differ only in their budget. "
        "Lower distances are better."
    ),
    "gamma": (
        "The metrics by the friction Γ on the position, for models that differ only in Γ (Γ = 0 is "
        "CLD). Lower distances are better."
    ),
    "training": (
        "Mean loss of each model by training step. A lower loss does not mean a better model: "
        "losses of different processes measure different noise."
    ),
}
"""The captions. The keys are kinds of figures of images, and names of plots."""
_BARS = (
    "Bars are 95 % intervals; an arrow marks a bar that extends below one tenth of its value. The "
    "lines of a panel are moved apart by a few points, so that no bar covers another bar. Hollow "
    "markers are numbers of the paper. A gray line, if on the axis, is the distance of pure noise."
)
READING = {
    "nfe": (
        "A panel has a line for each sampler of one model, or for each model with one sampler, "
        "whichever needs fewer panels. Both axes are logarithmic. Panels with the same values on "
        f"the vertical axis can be compared. {_BARS}"
    ),
    "gamma": (
        "Each sampler has a panel, and each budget has a line. The axis of Γ is linear from 0 to "
        f"the smallest Γ, then logarithmic. {_BARS}"
    ),
    "training": (
        "Both axes are logarithmic, and long curves are averaged over steps. Networks of one "
        "process predict noise, and denoisers predict the image."
    ),
}
"""Explanations of how to read a plot. The keys are names of plots."""


@dataclass(frozen=True)
class GridFigure:
    """One figure of a grid, results/figures/GRID/NAME."""

    name: str
    kind: Literal["plot", "samples", "comparison", "nearest"]
    """`samples` shows the images of one cell; `comparison` shows one cell in each row; `nearest`
    shows the samples of one cell that are nearest to training images, above the training images."""
    title: str
    category: tuple[str, str]
    cells: dict[str, Cell] = field(default_factory=dict)
    """The cells whose images the figure shows. The keys are the labels next to the images."""
    plotted: dict[str, Any] = field(default_factory=dict)
    """The data of a plot that is not in its input files: names of lines, entries, and the paper's
    numbers."""
    plotted_from: tuple[str, ...] = ()
    """The results or training histories that a plot shows."""

    @property
    def inputs(self) -> list[str]:
        """The small files that determine the figure. For sampled images, these are the records of
        the shards."""
        cells = self.cells.values()
        shown = [cell.result if self.kind == "nearest" else cell.records[0] for cell in cells]
        return [*self.plotted_from, *shown]

    @property
    def datasets(self) -> list[str]:
        """The prepared datasets that contain the training images or originals shown next to the
        samples."""
        return list(dict.fromkeys(cell.model.settings.data for cell in self.cells.values()))

    @property
    def content(self) -> dict[str, Any]:
        """All data that determines the figure and is not in its input files."""
        cells = {label: cell.name for label, cell in self.cells.items()}
        datasets = [cell.model.settings.dataset for cell in self.cells.values()]
        decoders = [each.decode.identity() for each in datasets if each.decode]
        decided = {"decoders": decoders} if decoders else {}
        return {"title": self.title, "cells": cells, **decided, **self.plotted}

    @property
    def cell(self) -> Cell:
        """The only cell of a figure of samples or nearest images."""
        [cell] = self.cells.values()
        return cell

    @property
    def caption(self) -> str:
        """The description of what the figure shows, as plain text."""
        if self.kind == "samples" and self.cell.sampler.settings.guidance.inpaints:
            return CAPTIONS["inpainted"]
        if self.kind == "samples" and self.cell.sampler.settings.asks_for_classes:
            return CAPTIONS["classes"]
        return CAPTIONS[self.name if self.kind == "plot" else self.kind]

    @property
    def reading(self) -> str:
        """An explanation of how to read a plot; empty for figures of images."""
        return READING.get(self.name, "") if self.kind == "plot" else ""


@cache
def all_figures(grid: Grid) -> dict[str, GridFigure]:
    return {figure.name: figure for figure in _figures(grid)}


def _figures(grid: Grid) -> Iterator[GridFigure]:
    file = grid.file
    for name, cells in file.figures.items():
        if len(cells) > 1:
            shared, rows = _in_words(grid.cells[cell] for cell in cells)
            title = file.labels.get(name) or shared or "One model and sampler per row"
            yield GridFigure(name, "comparison", title, FIRST, rows)
    papers, models = paper_values(grid), file.models
    for plot, entries in plot_entries(grid).items():
        content = {
            # The order of the lines determines their colors.
            "lines": {name: grid.file.label(name) for name in (*models, *grid.file.samplers)},
            "entries": [entry.shown.model_dump() for entry in entries],
            "paper": [papers.get(entry.number) for entry in entries],
        }
        files = [cell.result for cell in cells_behind(entries)] or [
            f"{grid.models[name].folder}/history.json" for name in trained_models(grid)
        ]
        place = PLOTS[plot], ("Plots", "Other")
        yield GridFigure(plot, "plot", *place, plotted=content, plotted_from=tuple(files))
    for model in models:
        yield _samples(f"samples/{model}", "By model", grid.gallery(model))
    for name, title, cells in _comparisons(grid):
        if len(cells) > 1:
            yield GridFigure(name, "comparison", title, ("Samples", "Side by side"), cells)
    for cell in _first_cells(grid):
        if any(m.metric.measure.finds_nearest for m in cell.measurements):
            name, category = f"nearest/{cell.name}", ("Samples", "Nearest training images")
            shown = " · ".join(cell.in_words)
            title = f"{shown}: samples above their nearest training images"
            yield GridFigure(name, "nearest", title, category, {"": cell})
    for name, cells in grid.file.figures.items():
        if len(cells) == 1:
            yield _samples(name, "Figures of the grid", grid.cells[cells[0]])


def _samples(name: str, category: str, cell: Cell) -> GridFigure:
    title = cell.options.labels.get(name) or " · ".join(cell.in_words)
    return GridFigure(name, "samples", title, ("Samples", category), {"": cell})


def _first_cells(grid: Grid) -> dict[Cell, None]:
    """Return the cells in all tables for the first seeds only, without duplicates."""
    return dict.fromkeys(entry.cell for entry in entries_in(grid) if entry.cells)


def _comparisons(grid: Grid) -> Iterator[tuple[str, str, dict[str, Cell]]]:
    """Yield the name, the title and the rows (label → cell) of each comparison of images.

    `models/DATASET` compares models of a dataset that have the same sampler in the gallery.
    `samplers/MODEL` compares all unguided samplers of one model.
    """
    models, families = list(grid.file.models), list(grid.file.samplers)
    for dataset in dict.fromkeys(grid.models[name].dataset for name in models):
        shared = (name for name in models if grid.file.models[name].gallery is None)
        alike = [name for name in shared if grid.models[name].dataset == dataset]
        cells = [grid.gallery(name) for name in alike]
        title = f"{dataset}: {cells[0].in_words[1]}, with each model"
        yield f"models/{dataset}", title, _in_words(cells)[1]
    for model in models:
        shown = [cell for cell in _first_cells(grid) if cell.model.name == model]
        unguided = [cell for cell in shown if cell.sampler.settings.guidance.is_none]
        unguided.sort(
            key=lambda cell: (families.index(cell.sampler.family), cell.sampler.settings.cost)
        )
        shared, rows = _in_words(unguided)
        yield f"samplers/{model}", f"{shared}, with each sampler", rows


def _in_words(cells: Iterable[Cell]) -> tuple[str, dict[str, Cell]]:
    """Return the label that all cells share, and the cells, keyed by their remaining label.

    The shared label is the label of the model or of the sampler. It is empty if the cells have
    neither label in common.
    """
    words = {cell: cell.in_words for cell in cells}
    models, samplers = ({each[i] for each in words.values()} for i in (0, 1))
    if len(models) == 1:
        return min(models), {sampler: cell for cell, (_, sampler) in words.items()}
    if len(samplers) == 1:
        return min(samplers), {model: cell for cell, (model, _) in words.items()}
    return "", {"\n".join(each): cell for cell, each in words.items()}


# -- plots ----------------------------------------------------------------------------------------

MODEL, SAMPLER = attrgetter("model.name"), attrgetter("sampler.family")
BUDGET = attrgetter("budget_in_words")
"""The properties of a cell by which a plot groups cells into panels and lines."""


@dataclass
class LineGroup:
    """Lines of comparable entries: the contents of one panel of a plot."""

    dataset: str
    metric: str
    samples: int
    panel: str
    """The model or the sampler that all lines share."""
    lines: dict[str, list[Entry]] = field(default_factory=dict)
    """The entries that each line connects. The keys are the names of the lines."""

    @property
    def axis(self) -> tuple[str, str, int]:
        """The dataset, the metric and the number of samples; equal for groups with comparable
        values."""
        return self.dataset, self.metric, self.samples


def plot_entries(grid: Grid) -> dict[str, list[Entry]]:
    """Return the entries of each plot of a grid, without duplicates.

    The plot of training curves has no entries.
    """
    found: dict[str, list[Entry]] = {}
    for plot, groups in {"nfe": nfe_lines(grid), "gamma": gamma_lines(grid)}.items():
        lines = chain.from_iterable(group.lines.values() for group in groups)
        if groups:
            found[plot] = list(dict.fromkeys(chain.from_iterable(lines)))
    return found | ({"training": []} if trained_models(grid) else {})


def nfe_lines(grid: Grid) -> list[LineGroup]:
    """Return lines of cells that differ only in their budget, grouped by model or by sampler.

    Of the two groupings, the grouping with fewer groups is returned, because this grouping puts
    more lines into one panel. Groups in which each line has only one cell are omitted. Cells with 0
    network evaluations are also omitted, because the axis is logarithmic.
    """
    order = list(grid.file.models).index
    evaluated = (e for e in distances(grid) if e.cell.sampler.settings.evaluations != 0)
    entries = sorted(evaluated, key=lambda entry: order(entry.cell.model.name))
    by_model = _line_groups(entries, MODEL, SAMPLER)
    by_sampler = _line_groups(entries, SAMPLER, MODEL)
    several = (
        [group for group in groups if max(map(len, group.lines.values())) > 1]
        for groups in (by_sampler, by_model)
    )
    return min(several, key=len)


def gamma_lines(grid: Grid) -> list[LineGroup]:
    """Return lines that connect models that differ only in Γ, one line for each budget."""
    alike: dict[str, set[str]] = {}
    for name in grid.file.models:
        model = grid.models[name].settings.model()
        settings = model.identity() | {"process": model.process.model_dump(mode="json")}
        if settings["process"].pop("gamma", None) is not None:
            alike.setdefault(digest_of(settings), set()).add(name)
    groups = []
    entries = sorted(distances(grid), key=lambda entry: entry.cell.sampler.settings.cost)
    for models in alike.values():
        shown = [entry for entry in entries if entry.cell.model.name in models]
        for group in _line_groups(shown, SAMPLER, BUDGET):
            lines = group.lines.items()
            group.lines = {n: line for n, line in lines if len(line) >= LEAST_FRICTIONS}
            groups += [group] if group.lines else []
    return groups


def _line_groups(
    entries: Iterable[Entry], panel: Callable[[Cell], str], line: Callable[[Cell], str]
) -> list[LineGroup]:
    groups: dict[tuple[str, str, int, str], LineGroup] = {}
    for entry in entries:
        cell = entry.cell
        if cell.sampler.settings.guidance.is_none:
            key = (cell.model.dataset, entry.shown.metric, entry.samples, panel(cell))
            group = groups.setdefault(key, LineGroup(*key))
            group.lines.setdefault(line(cell), []).append(entry)
    # Groups with the same axis are adjacent. Apart from that, keep the order of the entries.
    axes = [group.axis for group in groups.values()]
    return sorted(groups.values(), key=lambda group: axes.index(group.axis))


def trained_models(grid: Grid) -> list[str]:
    """Return the names of the models that this grid itself trains.

    Imported models and models of other grids are omitted.
    """
    return [name for name in grid.file.models if grid.models[name].made_by == "train"]
