"""All grids for the rules of the workflow: the records behind wildcards, and the targets."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Literal

from psld.config.locations import config_names
from psld.grid.cache import load_grid, nearest
from psld.grid.cells import Cell, Grid
from psld.grid.figures import GridFigure, all_figures
from psld.grid.records import Dataset, Features, Guide, Model
from psld.grid.rows import cells_behind, entries_in
from psld.utils.errors import UserError


class Workflow:
    """All grids. Methods that take a rule's wildcards return records."""

    def __init__(self, grids: dict[str, Grid], broken: dict[str, UserError] | None = None) -> None:
        """Take all grids, and the errors of those that do not resolve."""
        self.grids = grids
        self.broken = broken or {}
        # Grids share these: all prepare a dataset in the same way.
        self.datasets = dict(chain.from_iterable(g.datasets.items() for g in grids.values()))
        self.features = dict(chain.from_iterable(g.features.items() for g in grids.values()))

    @classmethod
    def load(cls) -> "Workflow":
        grids, broken = {}, {}
        for name in config_names("grid"):
            try:
                grids[name] = load_grid(name)
            except UserError as error:
                broken[name] = error
        return cls(grids, broken)

    @property
    def left_out(self) -> list[str]:
        return [f"grid {name} is left out: {error}" for name, error in self.broken.items()]

    @property
    def default(self) -> str:
        """The grid that is made without a target: not the paper, which takes weeks of GPU time."""
        names = self.grids.keys() | self.broken.keys()
        return "demo" if "demo" in names else min(names)

    def grid(self, wildcards: Any) -> Grid:
        return self.grids[wildcards.grid]

    def model(self, wildcards: Any) -> Model:
        grid, _, name = wildcards.model.partition("/")
        return self.grids[grid].models[name]

    def guide(self, wildcards: Any) -> Guide:
        grid, _, name = wildcards.guide.partition("/")
        return self.grids[grid].guides[name]

    def cell(self, wildcards: Any) -> Cell:
        return self.grids[wildcards.grid].cells[f"{wildcards.model}/{wildcards.sampler}"]

    def figure(self, wildcards: Any) -> GridFigure:
        return all_figures(self.grids[wildcards.grid])[wildcards.figure]

    def dataset(self, wildcards: Any) -> Dataset:
        return self.datasets[wildcards.dataset]

    def reference(self, wildcards: Any) -> Features:
        return self.features[f"{wildcards.dataset}/{wildcards.features}"]

    def word(self, kind: Literal["datasets", "features"], name: str) -> str:
        """GRID/NAME of a shared record, on a command line, in the first grid that has it."""
        grids = (grid for grid in self.grids.values() if name in getattr(grid, kind))
        return f"{next(grids).name}/{name}"

    def pattern(self, kind: str, imported: bool) -> str:
        """A pattern of GRID/NAME for all models or guides that are imported, or for the others."""
        names = [
            re.escape(f"{grid}/{name}")
            for grid in self.grids
            for name, trained in getattr(self.grids[grid], kind).items()
            if trained.made_by == ("import" if imported else "train")
        ]
        return "|".join(names) or "(?!)"

    # -- results ----------------------------------------------------------------------------------

    def table_results(self, wildcards: Any) -> list[str]:
        grid = self.grid(wildcards)
        return sorted(cell.result for cell in cells_behind(entries_in(grid, wildcards.table)))

    def table_content(self, wildcards: Any) -> dict[str, Any]:
        """What decides a table besides its inputs: its texts, and what each entry shows."""
        file, name = self.grid(wildcards).file, wildcards.table
        entries = [[shown.model_dump() for shown in row] for row in file.shown[name]]
        return {"table": file.tables[name].model_dump(), "entries": entries}

    def page_parts(self, wildcards: Any) -> list[str]:
        grid = self.grid(wildcards)
        pages = [f"{grid.table(name)}.html" for name in grid.file.tables]
        return [*pages, *grid.results, *grid.figure_files(*all_figures(grid))]

    # -- targets ----------------------------------------------------------------------------------

    def files(self, name: str) -> list[str]:
        """The final files of a grid: page, tables, figures, the results of cells, certificate."""
        grid = self.grids[name]
        tables = [file for table in grid.file.tables for file in grid.table_files(table)]
        figures = grid.figure_files(*all_figures(grid))
        return [grid.page, *tables, *figures, *grid.results, grid.certificate]

    def targets(self) -> dict[str, list[str]]:
        targets = {}
        for name, grid in self.grids.items():
            targets[name] = self.files(name)
            targets |= {table: grid.table_files(table) for table in grid.file.tables}
            targets |= {figure: grid.figure_files(figure) for figure in grid.file.figures}
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
