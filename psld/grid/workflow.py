"""The inputs, outputs and parameters of every job, for the rules of the workflow."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from psld.config.locations import config_names
from psld.grid import paths
from psld.grid.captions import caption_of
from psld.grid.cells import inpainted_datasets, nearest
from psld.grid.entries import paper_values
from psld.grid.figures import evaluations_of_plot, figures_of, plots_of, trained_models
from psld.grid.loading import load_grid
from psld.grid.places import Evaluation
from psld.grid.resolved import ComposedTraining, Grid
from psld.sampling.records import record_path
from psld.utils.errors import UserError
from psld.utils.files import digest_of


class Workflow:
    """All grids, with the files of their jobs. Arguments are named like Snakemake's wildcards."""

    def __init__(self, grids: dict[str, Grid]) -> None:
        """Take all grids. Raises UserError for an impossible name."""
        self.grids = grids
        self.datasets = {n: made for grid in grids.values() for n, made in grid.datasets.items()}
        self.metrics = {n: g.metric(n).identity() for g in grids.values() for n in g.metrics}
        self.features = {
            metric["features"]: {key: metric[key] for key in ("extractor", "truncated_reference")}
            for metric in self.metrics.values()
        }
        """The settings that decide features, by the name that the metrics of these share."""
        self.figures = {name: figures_of(grid) for name, grid in grids.items()}
        _check_config_names(grid=grids, dataset=self.datasets, features=self.features)

    @classmethod
    def load(cls) -> "Workflow":
        """Load every grid of configs/grid. Raises UserError if one does not compose."""
        return cls({name: load_grid(name) for name in config_names("grid")})

    # -- models and guides ----------------------------------------------------------------------

    def trained(self, kind: str, name: str) -> ComposedTraining:
        """Return a model (`kind` is `models`) or a guide (`guides`) by its name GRID/NAME."""
        grid, _, own = name.partition("/")
        return getattr(self.grids[grid], kind)[own]

    def name_pattern(self, kind: str, imported: bool) -> str:
        """A pattern of GRID/NAME for all models or guides that are imported, or for the others."""
        names = [
            re.escape(f"{grid}/{name}")
            for grid in self.grids
            for name, trained in getattr(self.grids[grid], kind).items()
            if bool(trained.checkpoint) == imported and not trained.of
        ]
        return "|".join(names) or "(?!)"

    def model_file(self, grid: str, model: str, name: str) -> str:
        """A file of a model, which another grid may have trained."""
        return f"{self.grids[grid].model_folder(model)}/{name}"

    # -- cells ----------------------------------------------------------------------------------

    def inputs_of_sampling(self, grid: str, model: str, sampler: str) -> list[str]:
        """The small files that decide a cell's images besides the model: guide and digests."""
        chosen = self.grids[grid].samplers[sampler]
        guide = [f"{paths.guide_folder(grid, chosen.guide)}/manifest.json"] if chosen.guide else []
        datasets = inpainted_datasets(self.grids[grid], model, sampler)
        return guide + [paths.dataset_digest(name) for name in datasets]

    def images_of_sampling(self, grid: str, model: str, sampler: str) -> list[str]:
        """The prepared datasets that an inpainting sampler reads."""
        return [paths.dataset(n) for n in inpainted_datasets(self.grids[grid], model, sampler)]

    def records_of_cell(self, grid: str, cell: str) -> list[str]:
        """The records of a cell's shards."""
        folder = paths.shards_folder(grid, *cell.rsplit("/", 1))
        ranges = self.grids[grid].ranges_of(cell)
        return [str(record_path(folder, *shards)) for shards in ranges]

    def sampling_params(self, grid: str, sampler: str) -> dict[str, Any]:
        """The parameters that decide a cell's images."""
        file = self.grids[grid].file
        settings, seed = self.grids[grid].samplers[sampler].settings, file.seed_of(sampler)
        return {"sampler": settings, "shard_size": file.shard_size, "seed": seed}

    def metrics_of_cell(self, grid: str, cell: str) -> list[dict[str, Any]]:
        """The settings of each metric of a cell, with its number of samples."""
        evaluations = self.grids[grid].evaluations_by_cell[cell]
        return [{**self.metrics[e.metric], "samples": e.samples} for e in evaluations]

    def references_of_cell(self, grid: str, cell: str) -> list[str]:
        """The manifests of the references that a cell's images are compared with."""
        dataset = self.grids[grid].models[cell.rpartition("/")[0]].dataset
        evaluations = self.grids[grid].evaluations_by_cell[cell]
        names = dict.fromkeys(self.metrics[e.metric]["features"] for e in evaluations)
        return [f"{paths.reference_folder(dataset, name)}/manifest.json" for name in names]

    # -- metrics --------------------------------------------------------------------------------

    def extractor_folder(self, dataset: str, features: str) -> str | None:
        """The folder of a trained extractor; None for a published one."""
        trained = self.features[features]["extractor"]["kind"] == "classifier"
        return paths.extractor_folder(dataset, features) if trained else None

    # -- results --------------------------------------------------------------------------------

    def results_of_tables(self, grid: str, *tables: str) -> list[str]:
        """The results that these tables show, or all tables if none is named."""
        file = self.grids[grid].file
        likelihoods = [paths.likelihood(grid, model) for model in file.likelihood_models(*tables)]
        return sorted(self._results(grid, file.evaluations_in(*tables))) + likelihoods

    def params_of_table(self, grid: str, table: str) -> dict[str, Any]:
        """The contents of a table besides its inputs: its texts, and what each entry shows."""
        file = self.grids[grid].file
        rows = file.places[table]
        return {
            "table": file.tables[table].model_dump(),
            "entries": [[p.evaluation and list(p.evaluation) for p in row] for row in rows],
            "likelihoods": [[p.model for p in row] for row in rows],
        }

    def grids_with_likelihood(self) -> str:
        """A pattern of the grids that have a table with likelihoods."""
        return "|".join(name for name, grid in self.grids.items() if grid.likelihood) or "(?!)"

    def _results(self, grid: str, evaluations: Iterable[Evaluation]) -> list[str]:
        """The results of some evaluations with all their seeds, each file once."""
        file = self.grids[grid].file
        cells = dict.fromkeys(r.cell for e in evaluations for r in file.replicates(e))
        return [paths.cell_result(grid, cell) for cell in cells]

    def inputs_of_certificate(self, grid: str) -> list[str]:
        """The results of all cells and all likelihoods, and the plots of them."""
        plots = self.files_of_figures(grid, plots_of(self.grids[grid]))
        return [*self.results_of_tables(grid), *plots]

    def digest_of_grid(self, grid: str) -> str:
        """The digest of the resolved grid, which is in the certificate."""
        return digest_of(self.grids[grid].model_dump(mode="json"))

    def inputs_of_figure(self, grid: str, figure: str) -> list[str]:
        """The small files that decide a figure."""
        shown, composed = self.figures[grid][figure], self.grids[grid]
        match shown.kind:
            case "plot" if figure == "training":
                folders = (composed.model_folder(model) for model in trained_models(composed))
                return [f"{folder}/history.json" for folder in folders]
            case "plot":
                return self._results(grid, evaluations_of_plot(composed, figure))
            case "nearest":
                return [paths.cell_result(grid, cell) for cell in shown.cells.values()]
            case "phase-space":
                return [self.model_file(grid, shown.model, "manifest.json")]
        return [self.records_of_cell(grid, cell)[0] for cell in shown.cells.values()]

    def originals_of_figure(self, grid: str, figure: str) -> list[str]:
        """The prepared dataset whose images a figure shows: inpainted ones, or nearest ones."""
        shown, composed = self.figures[grid][figure], self.grids[grid]
        if shown.kind not in ("samples", "nearest"):
            return []
        [cell] = shown.cells.values()
        model, _, sampler = cell.rpartition("/")
        shows = shown.kind == "nearest" or composed.samplers[sampler].guidance == "inpainting"
        return [composed.models[model].images] if shows else []

    def params_of_figure(self, grid: str, figure: str) -> dict[str, Any]:
        """The contents of a figure besides its inputs: names, colors and the paper's numbers."""
        shown, composed = self.figures[grid][figure], self.grids[grid]
        params: dict[str, Any] = {"title": shown.title, "cells": shown.cells}
        if shown.kind == "plot":
            params["models"] = list(composed.models)  # their order sets their colors
            papers = paper_values(composed)
            evaluations = evaluations_of_plot(composed, figure)
            params["entries"] = [list(evaluation) for evaluation in evaluations]
            params["paper"] = [papers.get(evaluation) for evaluation in evaluations]
        if shown.kind == "phase-space":
            params |= self.sampling_params(grid, composed.file.gallery)
        return params

    def caption_of_figure(self, grid: str, name: str) -> str:
        return caption_of(self.grids[grid], self.figures[grid][name])

    def parts_of_page(self, grid: str) -> list[str]:
        """The files that a page shows: tables, the results in them, and figures."""
        pages = [f"{paths.table(grid, table)}.html" for table in self.grids[grid].file.tables]
        figures = self.files_of_figures(grid, self.figures[grid])
        return [*pages, *self.results_of_tables(grid), *figures]

    # -- targets --------------------------------------------------------------------------------

    def files_of_table(self, grid: str, table: str) -> list[str]:
        endings = ("md", "csv", "tex", "html")
        return [f"{paths.table(grid, table)}.{ending}" for ending in endings]

    def files_of_figures(self, grid: str, figures: Iterable[str]) -> list[str]:
        return [f"{paths.figure(grid, f)}.{ending}" for f in figures for ending in ("png", "svg")]

    def files_of_grid(self, grid: str) -> list[str]:
        """The final files of a grid: page, tables, figures, the results of cells, certificate."""
        composed = self.grids[grid]
        tables = [file for t in composed.file.tables for file in self.files_of_table(grid, t)]
        cells = [paths.cell_result(grid, cell) for cell in composed.cells]
        figures = self.files_of_figures(grid, self.figures[grid])
        return [paths.page(grid), *tables, *figures, *cells, paths.certificate(grid)]

    def cells_among(self, words: Sequence[str]) -> dict[str, str]:
        """The result of each cell, GRID/MODEL/SAMPLER, among the words of a command line."""
        found = {}
        for word in words:
            grid, _, cell = word.partition("/")
            if grid in self.grids and cell in self.grids[grid].evaluations_by_cell:
                found[word] = paths.cell_result(grid, cell)
        return found

    def check_targets(self, words: Iterable[str], makes: Callable[[str], bool]) -> None:
        """Raise UserError, with the nearest names, for a word that is no target.

        Args:
            makes: checks if a rule makes a file. It does not check the names of cells in the file.
        """
        known: dict[str, None] = {}
        for word in words:
            if not word.startswith(("results/", "samples/")) and makes(word):
                continue
            known = known or dict.fromkeys(self._names_and_files())
            if word not in known:
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
            yield from (f"{name}/{cell}" for cell in grid.cells)
            yield from (f"{grid.model_folder(model)}/manifest.json" for model in grid.models)
            for cell in grid.shards:
                yield from self.records_of_cell(name, cell)
            if grid.likelihood:
                yield from (paths.likelihood(name, model) for model in grid.models)

    def check_names(self, rules: Iterable[str]) -> None:
        """Raise UserError if a table or figure, which is a target, has a name that is taken."""
        seen = {*rules, *self.grids}
        for grid, loaded in self.grids.items():
            for name in (*loaded.file.tables, *loaded.file.figure_targets):
                if name in seen:
                    raise UserError(
                        f"configs/grid/{grid}.yaml: {name}: the name is taken by another table, "
                        f"figure, grid or rule; call it {grid}-{name}"
                    )
                seen.add(name)

    def targets(self) -> dict[str, list[str]]:
        """The files behind the name of each grid, table and figure."""
        targets = {}
        for name, grid in self.grids.items():
            targets[name] = self.files_of_grid(name)
            for table in grid.file.tables:
                targets[table] = self.files_of_table(name, table)
            for figure, pictures in grid.file.figure_targets.items():
                targets[figure] = self.files_of_figures(name, pictures)
        return targets


def _check_config_names(**named: Iterable[str]) -> None:
    """Raise UserError if a config cannot have its name: the others are in the grids."""
    for kind, names in named.items():
        for name in names:
            try:
                paths.check_name(kind, name)
            except ValueError as error:
                raise UserError(f"configs/{kind}: {error}") from None
