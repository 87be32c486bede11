"""All grids for the rules of the workflow: the records behind wildcards, and the targets."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

from psld.config.locations import config_names
from psld.data.settings import PrepareSettings
from psld.grid import paths
from psld.grid.cache import load_grid, nearest
from psld.grid.cells import Cell, Grid, Images
from psld.grid.entries import paper_values
from psld.grid.figures import GridFigure, all_figures, plot_numbers, trained_models
from psld.grid.records import Dataset, Features, Guide, Model
from psld.grid.tables import Number
from psld.utils.errors import UserError


class Workflow:
    """All grids. Methods that take a rule's wildcards return records."""

    def __init__(self, grids: dict[str, Grid], broken: dict[str, UserError] | None = None) -> None:
        """Take all grids, and the errors of those that do not resolve."""
        self.grids = grids
        self.broken = broken or {}
        # Reversed: a job is named by the first grid that has it.
        self.datasets = {name: grid for grid in reversed(grids.values()) for name in grid.datasets}
        """A grid with each dataset: all grids prepare it in the same way."""
        self.features = {name: grid for grid in reversed(grids.values()) for name in grid.features}
        """A grid with each DATASET/FEATURES."""

    @classmethod
    def load(cls) -> "Workflow":
        """Load every grid of configs/grid."""
        grids, broken = {}, {}
        for name in config_names("grid"):
            try:
                grids[name] = load_grid(name)
            except UserError as error:
                broken[name] = error
        return cls(grids, broken)

    @property
    def left_out(self) -> list[str]:
        """A line for each grid that does not resolve."""
        return [f"grid {name} is left out: {error}" for name, error in self.broken.items()]

    @property
    def default(self) -> str:
        """The grid that is made without a target: not the paper, which takes weeks of GPU time."""
        names = self.grids.keys() | self.broken.keys()
        return "demo" if "demo" in names else min(names)

    def grid(self, wildcards: Any) -> Grid:
        return self.grids[wildcards.grid]

    def model(self, wildcards: Any) -> Model:
        """The model of the wildcard `model`, GRID/MODEL."""
        grid, _, name = wildcards.model.partition("/")
        return self.grids[grid].models[name]

    def guide(self, wildcards: Any) -> Guide:
        """The guide of the wildcard `guide`, GRID/GUIDE."""
        grid, _, name = wildcards.guide.partition("/")
        return self.grids[grid].guides[name]

    def cell(self, wildcards: Any) -> Cell:
        return self.grids[wildcards.grid].cells[f"{wildcards.model}/{wildcards.sampler}"]

    def images(self, wildcards: Any) -> Images:
        """The images of the wildcards `grid` and `images`."""
        known = {each.name: each for each in self.grids[wildcards.grid].images.values()}
        return known[wildcards.images]

    def images_features(self, wildcards: Any) -> list[str]:
        """The manifests of the references that images are compared with."""
        grid, images = self.grid(wildcards), self.images(wildcards)
        names = dict.fromkeys(m.metric.features for m in images.measurements)
        return [grid.features[f"{images.dataset}/{name}"].manifest for name in names]

    def figure(self, wildcards: Any) -> GridFigure:
        return all_figures(self.grids[wildcards.grid])[wildcards.figure]

    def dataset(self, wildcards: Any) -> Dataset:
        return self.datasets[wildcards.dataset].datasets[wildcards.dataset]

    def dataset_name(self, wildcards: Any) -> str:
        """The name of a dataset's record, GRID/DATASET."""
        return f"{self.datasets[wildcards.dataset].name}/{wildcards.dataset}"

    @property
    def preparations(self) -> dict[str, PrepareSettings]:
        """The settings of each dataset's preparation, by GRID/DATASET."""
        known = self.datasets.items()
        return {f"{grid.name}/{name}": grid.datasets[name].settings for name, grid in known}

    def reference(self, wildcards: Any) -> Features:
        """The features of the wildcards `dataset` and `features`."""
        name = f"{wildcards.dataset}/{wildcards.features}"
        return self.features[name].features[name]

    def reference_name(self, wildcards: Any) -> str:
        """The name of the features' record, GRID/DATASET/FEATURES."""
        name = f"{wildcards.dataset}/{wildcards.features}"
        return f"{self.features[name].name}/{name}"

    def pattern(self, kind: str, imported: bool) -> str:
        """A pattern of GRID/NAME for all models or guides that are imported, or for the others."""
        names = [
            re.escape(f"{grid}/{name}")
            for grid in self.grids
            for name, trained in getattr(self.grids[grid], kind).items()
            if bool(trained.checkpoint) == imported and not trained.is_trained_elsewhere
        ]
        return "|".join(names) or "(?!)"

    # -- results ----------------------------------------------------------------------------------

    def table_results(self, wildcards: Any) -> list[str]:
        grid = self.grid(wildcards)
        images = grid.file.numbers_in(wildcards.table, images=True)
        cells = result_files(grid, grid.file.numbers_in(wildcards.table))
        return sorted({*cells, *(grid.images[number].result for number in images)})

    def table_content(self, wildcards: Any) -> dict[str, Any]:
        """The contents of a table besides its inputs: its texts, and what each entry shows."""
        file = self.grid(wildcards).file
        places = file.places[wildcards.table]
        table = file.tables[wildcards.table].model_dump()
        entries = [[place.number and list(place.number) for place in row] for row in places]
        return {"table": table, "entries": entries}

    def figure_inputs(self, wildcards: Any) -> list[str]:
        """The small files that decide a figure."""
        figure, grid = self.figure(wildcards), self.grid(wildcards)
        match figure.kind:
            case "plot" if figure.name == "training":
                models = (grid.models[model] for model in trained_models(grid))
                return [f"{model.folder}/history.json" for model in models]
            case "plot":
                return result_files(grid, plot_numbers(grid, figure.name))
            case "nearest":
                return [cell.result for cell in figure.cells.values()]
        return [cell.records[0] for cell in figure.cells.values()]

    def figure_images(self, wildcards: Any) -> list[str]:
        """The prepared dataset whose images a figure shows: training images, or originals."""
        figure = self.figure(wildcards)
        shows = figure.kind == "nearest" or (figure.kind == "samples" and figure.cell.datasets)
        return [figure.cell.model.settings.data] if shows else []

    def figure_content(self, wildcards: Any) -> dict[str, Any]:
        """The contents of a figure besides its inputs: names, colors and the paper's numbers."""
        figure, grid = self.figure(wildcards), self.grid(wildcards)
        cells = {label: cell.name for label, cell in figure.cells.items()}
        content: dict[str, Any] = {"title": figure.title, "cells": cells}
        if figure.kind == "plot":
            content["models"] = list(grid.models)  # their order sets their colors
            papers, numbers = paper_values(grid), plot_numbers(grid, figure.name)
            content["entries"] = [list(number) for number in numbers]
            content["paper"] = [papers.get(number) for number in numbers]
        return content

    def page_parts(self, wildcards: Any) -> list[str]:
        """The files that a page shows: tables, the results in them, and figures."""
        grid = self.grid(wildcards)
        pages = [f"{paths.table(grid.name, table)}.html" for table in grid.file.tables]
        measured = (*grid.measured_cells, *grid.images.values())
        results = sorted({each.result for each in measured})
        return [*pages, *results, *figure_files(grid, all_figures(grid))]

    def certificate_inputs(self, wildcards: Any) -> list[str]:
        """The results of all cells."""
        return sorted(cell.result for cell in self.grid(wildcards).measured_cells)

    # -- targets ----------------------------------------------------------------------------------

    def files(self, name: str) -> list[str]:
        """The final files of a grid: page, tables, figures, the results of cells, certificate."""
        grid = self.grids[name]
        tables = [file for table in grid.file.tables for file in table_files(grid, table)]
        cells = [cell.result for cell in grid.measured_cells]
        figures = figure_files(grid, all_figures(grid))
        return [paths.page(name), *tables, *figures, *cells, paths.certificate(name)]

    def targets(self) -> dict[str, list[str]]:
        """The files behind the name of each grid, table and figure."""
        targets = {}
        for name, grid in self.grids.items():
            targets[name] = self.files(name)
            for table in grid.file.tables:
                targets[table] = table_files(grid, table)
            for figure in grid.file.figures:
                targets[figure] = figure_files(grid, [figure])
        return targets

    def cells_among(self, words: Sequence[str]) -> dict[str, str]:
        """The result of each measured cell, GRID/MODEL/SAMPLER, among the words of a command."""
        results = {}
        for word in words:
            grid, _, name = word.partition("/")
            cell = self.grids[grid].cells.get(name) if grid in self.grids else None
            if cell and cell.measurements:
                results[word] = cell.result
        return results

    def check_targets(
        self, words: Iterable[str], makes: Callable[[str], bool], rules: Collection[str] = ()
    ) -> None:
        """Raise UserError, with the nearest names, for a word that is no target.

        Args:
            makes: checks if a rule makes a file. It does not check the names of cells in the file.
            rules: the names of all rules; `all` makes the paper.
        """
        known: dict[str, None] = {}
        for asked in words:
            word = "paper" if asked == "all" and asked in rules else asked
            if word in rules:
                continue
            for name, error in self.broken.items():
                place = re.escape(name)
                below = rf"((models|guides|samples|results/\w+)/)?{place}(/.*|\.zip)?"
                if re.fullmatch(rf"{below}|results/{place}\.html", word):
                    raise error
            if not word.startswith(("results/", "samples/")) and makes(word):
                continue
            known = known or dict.fromkeys(self._names_and_files())
            if word not in known:
                name, _, cell = word.partition("/")
                if name in self.grids and (shown := self.grids[name].cells.get(cell)):
                    records = " ".join(shown.records)
                    raise UserError(f"{word}: in no table, so it has no result; images: {records}")
                alike = (name for name in known if name.count("/") == word.count("/"))
                grid = next((name for name in self.grids if f"{name}/" in word), "NAME")
                raise UserError(
                    f"{word}: no such target{nearest(word, alike)}; "
                    f"psld plan grid_name={grid} list=cells lists the cells"
                )

    def _names_and_files(self) -> Iterator[str]:
        """Yield all targets, all cells and every file of models, samples and results."""
        for target, files in self.targets().items():
            yield from (target, *files)
        for name, grid in self.grids.items():
            yield from (model.manifest for model in grid.models.values())
            yield from (f"{name}/{cell.name}" for cell in grid.measured_cells)
            for cell in grid.cells.values():
                yield from cell.records
            yield from (images.result for images in grid.images.values())

    def check_names(self, rules: Iterable[str]) -> None:
        """Raise UserError if a table or figure, which is a target, has a name that is taken."""
        seen = {*rules, *self.grids}
        for grid, loaded in self.grids.items():
            for name in (*loaded.file.tables, *loaded.file.figures):
                if name in seen:
                    raise UserError(
                        f"configs/grid/{grid}.yaml: {name}: the name is taken by another table, "
                        f"figure, grid or rule; call it {grid}-{name}"
                    )
                seen.add(name)


def result_files(grid: Grid, numbers: Iterable[Number]) -> list[str]:
    """Return the results behind some numbers with all their seeds, each file once."""
    return [cell.result for cell in grid.cells_behind(numbers)]


def table_files(grid: Grid, table: str) -> list[str]:
    return [f"{paths.table(grid.name, table)}.{ending}" for ending in ("md", "csv", "tex", "html")]


def figure_files(grid: Grid, figures: Iterable[str]) -> list[str]:
    endings = ("png", "svg")
    return [f"{paths.figure(grid.name, name)}.{ending}" for name in figures for ending in endings]
