"""The figures of a grid and their contents. Imports neither torch nor matplotlib.

Figures show the first seed of each cell, plots the mean of all. Cells share a panel of a plot if
their numbers are comparable: the same dataset, metric, number of samples and sampler family, and
no guidance.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from psld.grid.records import Cell, Grid
from psld.grid.tables import Number
from psld.utils.files import digest_of

PLOTS = {
    "nfe": "distance against network evaluations",
    "gamma": "distance against friction Γ",
    "training": "training curves",
}
"""The plots of numbers that a grid may have: name → contents."""

Kind = Literal["plot", "samples", "comparison", "nearest", "phase-space"]


@dataclass(frozen=True)
class GridFigure:
    """One figure of a grid, results/figures/GRID/NAME."""

    name: str
    kind: Kind
    """`samples` shows the images of one cell; `comparison` shows one cell in each row; `nearest`
    shows the samples of one cell that are nearest to training images, above these images."""
    title: str
    label: str
    """Its name in a report."""
    category: tuple[str, str]
    """Category and subcategory in a report."""
    cells: dict[str, Cell] = field(default_factory=dict)
    """The cells whose images it shows, by the names next to the images."""
    model: str = ""
    """The model whose path through phase space it shows."""

    @property
    def cell(self) -> Cell:
        """The cell of a figure that shows a single one."""
        [cell] = self.cells.values()
        return cell


LEAST_FRICTIONS = 3
"""The fewest values of Γ in a line: two points show little of a dependence."""


@dataclass
class Panel:
    """One panel of a plot of cells."""

    dataset: str
    metric: str
    samples: int
    sampler: str
    lines: dict[str, list[Number]] = field(default_factory=dict)
    """The numbers that each line joins, by the line's name."""

    @property
    def group(self) -> tuple[str, str, int]:
        """The group of panels whose values can be compared with each other."""
        return self.dataset, self.metric, self.samples


def nfe_panels(grid: Grid) -> list[Panel]:
    """Return panels whose lines join cells that differ only in budget, one line for each model.

    Leave out a panel if no line has two cells, because it shows no dependence.
    """
    order = list(grid.file.models).index
    numbers = sorted(grid.file.numbers, key=lambda number: order(number.model))
    panels = _panels(grid, numbers, lambda number: number.model)
    return [panel for panel in panels if max(map(len, panel.lines.values())) > 1]


def gamma_panels(grid: Grid) -> list[Panel]:
    """Return panels whose lines join cells of models that differ only in Γ, one for each budget."""
    panels = []
    for alike in _alike_but_for_gamma(grid):
        numbers = [number for number in grid.file.numbers if number.model in alike]
        numbers.sort(key=lambda number: grid.cell(number).sampler.cost)
        for panel in _panels(grid, numbers, lambda n: grid.cell(n).sampler.budget_label):
            lines = panel.lines.items()
            panel.lines = {n: line for n, line in lines if len(line) >= LEAST_FRICTIONS}
            panels += [panel] if panel.lines else []
    return panels


def _panels(grid: Grid, numbers: Iterable[Number], line: Callable[[Number], str]) -> list[Panel]:
    panels: dict[tuple[Any, ...], Panel] = {}
    for number in numbers:
        cell = grid.cell(number)
        if cell.sampler.guidance == "none":
            key = (cell.model.dataset, number.metric, number.samples, number.sampler)
            panel = panels.setdefault(key, Panel(*key))
            panel.lines.setdefault(line(number), []).append(number)
    # Join groups, and keep groups and panels in the tables' order.
    groups = [panel.group for panel in panels.values()]
    return sorted(panels.values(), key=lambda panel: groups.index(panel.group))


def _alike_but_for_gamma(grid: Grid) -> list[set[str]]:
    alike: dict[str, set[str]] = {}
    for name in grid.file.models:
        settings = grid.models[name].settings.model().identity()
        if settings["process"].pop("gamma", None) is not None:
            alike.setdefault(digest_of(settings), set()).add(name)
    return [models for models in alike.values() if len(models) >= LEAST_FRICTIONS]


def friction(grid: Grid, model: str) -> float | None:
    """Return Γ of a model; None if its process has no such setting."""
    return getattr(grid.models[model].settings.process, "gamma", None)


def trained_models(grid: Grid) -> list[str]:
    """The models that the grid trains: all but imported ones and those of other grids."""
    return [name for name in grid.file.models if grid.models[name].is_trained_here]


@cache
def all_figures(grid: Grid) -> dict[str, GridFigure]:
    """All figures of a grid by name."""
    return {figure.name: figure for figure in _figures(grid)}


def _figures(grid: Grid) -> Iterator[GridFigure]:
    for plot in plots(grid):
        yield GridFigure(plot, "plot", PLOTS[plot], PLOTS[plot], ("Plots", "Other"))
    for model in phase_space_models(grid):
        title = f"{model} by {grid.file.gallery}"
        name, category = f"phase-space/{model}", ("Phase space", "Other")
        yield GridFigure(name, "phase-space", title, model, category, model=model)
    for model in grid.file.models:
        title, category = f"{model} by {grid.file.gallery}", ("Samples", "By model")
        cells = {"": grid.gallery(model)}
        yield GridFigure(f"samples/{model}", "samples", title, model, category, cells)
    for name, rows in _comparisons(grid):
        kind, _, what = name.partition("/")
        title = f"{what} by {grid.file.gallery}" if kind == "models" else f"{what}, by sampler"
        if len(rows) > 1:
            yield GridFigure(name, "comparison", title, name, ("Samples", "Side by side"), rows)
    for cell in dict.fromkeys(map(grid.cell, grid.file.numbers)):
        if any(m.metric.measure.kind == "memorization" for m in cell.measurements):
            category = ("Samples", "Nearest training images")
            title = f"{cell.name}: the samples nearest to training images, above these"
            name = f"nearest/{cell.name}"
            yield GridFigure(name, "nearest", title, cell.name, category, {"": cell})
    for name, cell in grid.file.pictures.items():
        category, cells = ("Samples", "Figures of the grid"), {"": grid.cells[cell]}
        yield GridFigure(name, "samples", cell, name, category, cells)


def plots(grid: Grid) -> list[str]:
    """The plots of a grid that are not empty."""
    contents = (nfe_panels(grid), gamma_panels(grid), trained_models(grid))
    return [plot for plot, content in zip(PLOTS, contents, strict=True) if content]


def plot_lines(grid: Grid, plot: str) -> list[list[Number]]:
    """The numbers that each line of a plot joins."""
    panels = {"nfe": nfe_panels, "gamma": gamma_panels}.get(plot, lambda _: [])(grid)
    return [line for panel in panels for line in panel.lines.values()]


def plot_numbers(grid: Grid, plot: str) -> list[Number]:
    """The numbers that a plot shows."""
    return list(dict.fromkeys(number for line in plot_lines(grid, plot) for number in line))


def phase_space_models(grid: Grid) -> list[str]:
    """The models whose path from noise to data is shown in phase space: those with momentum.

    The path is that of the gallery's sampler, which must have a fixed time grid and no guidance.
    """
    gallery = grid.samplers[grid.file.gallery]
    if not hasattr(gallery.settings, "steps") or gallery.guidance != "none":
        return []
    return [name for name in grid.file.models if grid.models[name].settings.process.blocks > 1]


def _comparisons(grid: Grid) -> Iterator[tuple[str, dict[str, Cell]]]:
    """Yield the rows of comparisons of images: the row's label → its cell.

    `models/DATASET` compares models with the gallery's sampler; `samplers/MODEL` compares one
    model's unguided samplers.
    """
    models = list(grid.file.models)
    for dataset in dict.fromkeys(grid.models[name].dataset for name in models):
        alike = [name for name in models if grid.models[name].dataset == dataset]
        yield f"models/{dataset}", {name: grid.gallery(name) for name in alike}
    families = list(grid.file.samplers)
    for model in models:
        cells = [grid.cell(number) for number in grid.file.numbers if number.model == model]
        unguided = [cell for cell in cells if cell.sampler.guidance == "none"]
        unguided.sort(key=lambda cell: (families.index(cell.sampler.family), cell.sampler.cost))
        yield f"samplers/{model}", {cell.name.partition("/")[2]: cell for cell in unguided}
