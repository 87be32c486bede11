"""The figures of a grid and their contents. Imports neither torch nor matplotlib.

Figures show the first seed of each cell, plots the mean of all. Cells share a panel of a plot if
their numbers are comparable: the same dataset, metric, number of samples and sampler family, and
no guidance.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from psld.grid.places import Evaluation
from psld.grid.resolved import Grid
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
    cells: dict[str, str] = field(default_factory=dict)
    """The cells whose images it shows: the name next to the images → the cell."""
    model: str = ""
    """The model whose path through phase space it shows."""


LEAST_FRICTIONS = 3
"""The fewest values of Γ in a line: two points show little of a dependence."""


@dataclass
class Panel:
    """One panel of a plot of cells."""

    dataset: str
    metric: str
    samples: int
    family: str
    lines: dict[str, list[Evaluation]] = field(default_factory=dict)
    """The cells that each line joins, by the line's name."""

    @property
    def group(self) -> tuple[str, str, int]:
        """The group of panels whose values can be compared with each other."""
        return self.dataset, self.metric, self.samples


def nfe_panels(grid: Grid) -> list[Panel]:
    """Return panels whose lines join cells that differ only in budget, one line for each model.

    Leave out a panel if no line has two cells, because it shows no dependence.
    """
    order = list(grid.file.models).index
    in_order = sorted(grid.file.evaluations, key=lambda e: order(e.model))
    panels = _panels(grid, in_order, lambda evaluation: evaluation.model)
    return [panel for panel in panels if max(map(len, panel.lines.values())) > 1]


def gamma_panels(grid: Grid) -> list[Panel]:
    """Return panels whose lines join cells of models that differ only in Γ, one for each budget."""
    panels = []
    for alike in _alike_but_for_gamma(grid):
        of_these = [e for e in grid.file.evaluations if e.model in alike]
        of_these.sort(key=lambda e: _cost(grid, e))
        for panel in _panels(grid, of_these, grid.file.budget_of):
            lines = panel.lines.items()
            panel.lines = {n: line for n, line in lines if len(line) >= LEAST_FRICTIONS}
            panels += [panel] if panel.lines else []
    return panels


def _panels(
    grid: Grid, evaluations: Iterable[Evaluation], name: Callable[[Evaluation], str]
) -> list[Panel]:
    panels: dict[tuple[Any, ...], Panel] = {}
    for evaluation in evaluations:
        if grid.samplers[evaluation.sampler].guidance == "none":
            key = (
                grid.models[evaluation.model].dataset,
                evaluation.metric,
                evaluation.samples,
                grid.file.family_of(evaluation.sampler),
            )
            panel = panels.setdefault(key, Panel(*key))
            panel.lines.setdefault(name(evaluation), []).append(evaluation)
    # Join groups, and keep groups and panels in the tables' order.
    groups = [panel.group for panel in panels.values()]
    return sorted(panels.values(), key=lambda panel: groups.index(panel.group))


def _cost(grid: Grid, evaluation: Evaluation) -> float:
    """Return a number that grows with the cost of a budget."""
    settings = grid.samplers[evaluation.sampler].settings
    return settings.get("steps") or 1 / settings["tolerance"]


def _alike_but_for_gamma(grid: Grid) -> list[set[str]]:
    alike: dict[str, set[str]] = {}
    for name in grid.file.models:
        model = grid.models[name]
        if friction_of(grid, name) is not None:
            process = model.settings["process"] | {"gamma": None}
            key = digest_of(model.settings | {"process": process})
            alike.setdefault(key, set()).add(name)
    return [models for models in alike.values() if len(models) >= LEAST_FRICTIONS]


def friction_of(grid: Grid, model: str) -> float | None:
    """Return Γ of a model; None if its process has no such setting."""
    return grid.models[model].settings["process"].get("gamma")


def trained_models(grid: Grid) -> list[str]:
    """The models that the grid trains: all but imported ones and those of other grids."""
    models = ((name, grid.models[name]) for name in grid.file.models)
    return [name for name, model in models if not (model.checkpoint or model.of)]


def figures_of(grid: Grid) -> dict[str, GridFigure]:
    """All figures of a grid by name."""
    return {figure.name: figure for figure in _figures(grid)}


def _figures(grid: Grid) -> Iterator[GridFigure]:
    for plot in plots_of(grid):
        yield GridFigure(plot, "plot", PLOTS[plot], PLOTS[plot], ("Plots", "Other"))
    for model in phase_space_models(grid):
        title = f"{model} by {grid.file.gallery}"
        name, category = f"phase-space/{model}", ("Phase space", "Other")
        yield GridFigure(name, "phase-space", title, model, category, model=model)
    for model in grid.file.models:
        title, cell = f"{model} by {grid.file.gallery}", f"{model}/{grid.file.gallery}"
        name, category = f"samples/{model}", ("Samples", "By model")
        yield GridFigure(name, "samples", title, model, category, {"": cell})
    for name, rows in comparisons_of(grid).items():
        kind, _, what = name.partition("/")
        title = f"{what} by {grid.file.gallery}" if kind == "models" else f"{what}, by sampler"
        yield GridFigure(name, "comparison", title, name, ("Samples", "Side by side"), rows)
    cells = dict.fromkeys(evaluation.cell for evaluation in grid.file.evaluations)
    for cell in filter(lambda cell: evaluation_of_memorization(grid, cell), cells):
        category = ("Samples", "Nearest training images")
        title = f"{cell}: the samples nearest to training images, above these"
        yield GridFigure(f"nearest/{cell}", "nearest", title, cell, category, {"": cell})
    for name, cell in grid.file.pictures.items():
        category = ("Samples", "Figures of the grid")
        yield GridFigure(name, "samples", cell, name, category, {"": cell})


def evaluation_of_memorization(grid: Grid, cell: str) -> Evaluation | None:
    """The first evaluation of a cell that measures memorization; None without one."""
    kinds = {name: metric["measure"]["kind"] for name, metric in grid.metrics.items()}
    evaluations = grid.evaluations_by_cell.get(cell, [])
    return next((e for e in evaluations if kinds[e.metric] == "memorization"), None)


def plots_of(grid: Grid) -> list[str]:
    """The plots of a grid that are not empty."""
    contents = (nfe_panels(grid), gamma_panels(grid), trained_models(grid))
    return [plot for plot, content in zip(PLOTS, contents, strict=True) if content]


def lines_of_plot(grid: Grid, plot: str) -> list[list[Evaluation]]:
    """The results that each line of a plot joins."""
    panels = {"nfe": nfe_panels, "gamma": gamma_panels}.get(plot, lambda _: [])(grid)
    return [line for panel in panels for line in panel.lines.values()]


def evaluations_of_plot(grid: Grid, plot: str) -> list[Evaluation]:
    """The results that a plot shows."""
    return list(dict.fromkeys(e for line in lines_of_plot(grid, plot) for e in line))


def phase_space_models(grid: Grid) -> list[str]:
    """The models whose path from noise to data is shown in phase space: those with momentum.

    The path is that of the gallery's sampler, which must have a fixed time grid and no guidance.
    """
    gallery = grid.samplers[grid.file.gallery]
    if "steps" not in gallery.settings or gallery.guidance != "none":
        return []
    models = grid.file.models
    return [name for name in models if blocks_of(grid.models[name].settings["process"]) > 1]


def blocks_of(process: dict[str, Any]) -> int:
    """Return the number of blocks of a process, including the image, from its settings."""
    match process["kind"]:
        case "vp-sde":
            return 1
        case "psld":
            return 2
    return len(process["S"])


def comparisons_of(grid: Grid) -> dict[str, dict[str, str]]:
    """Return the rows of each comparison: the row's label → its cell.

    `models/DATASET` compares models with the gallery's sampler; `samplers/MODEL` compares one
    model's unguided samplers. A comparison has at least two rows.
    """
    return {name: rows for name, rows in _comparisons(grid) if len(rows) > 1}


def _comparisons(grid: Grid) -> Iterator[tuple[str, dict[str, str]]]:
    for dataset in dict.fromkeys(grid.models[name].dataset for name in grid.file.models):
        models = [name for name in grid.file.models if grid.models[name].dataset == dataset]
        yield f"models/{dataset}", {model: f"{model}/{grid.file.gallery}" for model in models}
    families = list(grid.file.samplers)
    for model in grid.file.models:
        own = [e for e in grid.file.evaluations if e.model == model]
        own.sort(key=lambda e: (families.index(grid.file.family_of(e.sampler)), _cost(grid, e)))
        unguided = [e.sampler for e in own if grid.samplers[e.sampler].guidance == "none"]
        yield f"samplers/{model}", {sampler: f"{model}/{sampler}" for sampler in unguided}
