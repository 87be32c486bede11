"""Access to all grids from the rules of the workflow: records by wildcards, and targets by name."""

import re
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from psld.config.locations import config_file, config_names
from psld.grid.cache import load_grid
from psld.grid.cells import Cell, Grid
from psld.grid.figures import GridFigure, all_figures
from psld.grid.reading import grid_path, read_grid_file
from psld.grid.records import DatasetRecord, FeaturesRecord, GuideRecord, ModelRecord, StartRecord
from psld.grid.rows import cells_behind, entries_in
from psld.grid.schema import GridFile
from psld.models.manifest import imported_file
from psld.utils.errors import UserError

Shared = Literal["datasets", "features", "starts"]


@dataclass
class Workflow:
    """All grids. Methods with the argument `wildcards` are called by rules.

    All grid files are read at the start, because they define the names of the targets. A grid is
    resolved at its first use, because resolving a grid takes seconds.
    """

    files: dict[str, GridFile]
    grids: dict[str, Grid] = field(default_factory=dict)
    """The grids that have been resolved so far."""
    broken: dict[str, UserError] = field(default_factory=dict)
    """The errors of the grid files that cannot be read, keyed by the name of the grid."""
    seen: Callable[[Grid], None] | None = None
    """A callback that is called once for each grid, when the grid is resolved."""
    rules: Set[str] = frozenset()
    """The names of the rules. A grid, table or figure that has the name of a rule is not a
    target."""
    awaited: set[str] = field(default_factory=set)
    """Files that are read by trainings of the resolved grids. The jobs that make these files run
    first; otherwise, a training that waits for samples could be the only job at the end."""

    @classmethod
    def load(cls, seen: Callable[[Grid], None] | None = None) -> "Workflow":
        """Read the files of all grids; `seen` is called with each grid when it is resolved."""
        files, broken = {}, {}
        for name in config_names("grid"):
            try:
                files[name] = read_grid_file(grid_path(name))
            except UserError as error:
                broken[name] = error
            except OSError as error:  # The file was just deleted, or is not readable.
                broken[name] = UserError(f"configs/grid/{name}.yaml: {error.strerror}")
        return cls(files, broken=broken, seen=seen)

    @property
    def default(self) -> str:
        """The grid of the default target. The grid `paper` would take weeks of GPU time."""
        names = self.files.keys() | self.broken.keys()
        return "demo" if "demo" in names else min(names)

    def grid(self, name: str) -> Grid:
        """Return a grid. The first call resolves the grid or reads it from the cache."""
        if name not in self.grids:
            grid = self.grids[name] = load_grid(name)
            trainings = *grid.models.values(), *grid.guides.values()
            self.awaited.update(file for each in trainings for file in each.reads)
            if self.seen:
                self.seen(self.grids[name])
        return self.grids[name]

    def is_awaited(self, pattern: str, wildcards: Any) -> bool:
        """Check if a training reads the file with this pattern. See `awaited`."""
        return pattern.format(**wildcards) in self.awaited

    def model(self, wildcards: Any) -> ModelRecord:
        grid, _, name = wildcards.model.partition("/")
        return self.grid(grid).models[name]

    def guide(self, wildcards: Any) -> GuideRecord:
        grid, _, name = wildcards.guide.partition("/")
        return self.grid(grid).guides[name]

    def cell(self, wildcards: Any) -> Cell:
        return self.grid(wildcards.grid).cells[f"{wildcards.model}/{wildcards.sampler}"]

    def figure(self, wildcards: Any) -> GridFigure:
        return all_figures(self.grid(wildcards.grid))[wildcards.figure]

    def dataset(self, wildcards: Any) -> DatasetRecord:
        return self._with("datasets", wildcards.dataset).datasets[wildcards.dataset]

    def reference(self, wildcards: Any) -> FeaturesRecord:
        name = f"{wildcards.dataset}/{wildcards.features}"
        return self._with("features", name).features[name]

    def start(self, wildcards: Any) -> StartRecord:
        return self._with("starts", wildcards.start).starts[wildcards.start]

    def word(self, kind: Shared, name: str) -> str:
        """Return GRID/NAME of a shared record for a command line.

        Several grids may have the record; GRID is one of them.
        """
        return f"{self._with(kind, name).name}/{name}"

    def _with(self, kind: Shared, name: str) -> Grid:
        """Return a grid that has a shared record.

        The result may be any such grid, because all grids prepare a dataset in the same way. Raises
        UserError if no grid has the record, or if a grid that names the dataset cannot be resolved.
        """
        dataset = re.sub("(/.*|(-flip)?(-classes)?)$", "", name)
        naming = {grid for grid, file in self.files.items() if dataset in repr(file)}

        def is_unlikely(grid: str) -> tuple[bool, bool]:
            return grid not in self.grids, grid not in naming

        for grid in sorted(self.files, key=is_unlikely):
            if all(is_unlikely(grid)) and not config_file("dataset", dataset):
                break  # No dataset has this name, and resolving the other grids takes long.
            try:
                if name in getattr(self.grid(grid), kind):
                    return self.grid(grid)
            except UserError:
                if grid in naming:
                    raise
        command = {"datasets": "prepare", "features": "reference", "starts": "start"}[kind]
        raise UserError(f"{name}: no grid has these {kind}; make them by hand with psld {command}")

    def pattern(self, kind: Literal["models", "guides"], imported: bool) -> str:
        """Return a regular expression for GRID/NAME of all models or guides that jobs create.

        If `imported` is True, the expression matches the networks that jobs import; otherwise, it
        matches the networks that jobs train. Weights that were imported by hand are source files,
        so no job creates them.
        """
        names = []
        for grid, file in self.files.items():
            for name, entry in (file.trainings if kind == "models" else file.guides).items():
                made_by = entry.made_by
                if made_by == "train" and imported_file(f"{kind}/{grid}/{name}"):
                    continue
                if made_by == ("import" if imported else "train"):
                    names.append(re.escape(f"{grid}/{name}"))
        return "|".join(names) or "(?!)"

    # -- results ----------------------------------------------------------------------------------

    def table_results(self, wildcards: Any) -> list[str]:
        grid = self.grid(wildcards.grid)
        return sorted(cell.result for cell in cells_behind(entries_in(grid, wildcards.table)))

    def table_content(self, wildcards: Any) -> dict[str, Any]:
        """Return all data that determines a table and is not in its input files: texts, labels, and
        entries."""
        file, name = self.grid(wildcards.grid).file, wildcards.table
        entries = [[shown.model_dump() for shown in row] for row in file.shown[name]]
        content = {"table": file.tables[name].model_dump(), "entries": entries}
        return content | ({"labels": file.labels} if file.labels else {})

    def page_parts(self, wildcards: Any) -> list[str]:
        grid = self.grid(wildcards.grid)
        pages = [f"{grid.table(name)}.html" for name in grid.file.tables]
        return [*pages, *grid.results, *grid.figure_files(*all_figures(grid))]

    # -- targets ----------------------------------------------------------------------------------

    @cached_property
    def owners(self) -> dict[str, list[str]]:
        """The grids that have a table or a figure of a given name, keyed by this name."""
        owners: dict[str, list[str]] = {}
        for grid, file in self.files.items():
            for name in file.tables | file.figures:
                owners.setdefault(name, []).append(grid)
        return owners

    @cached_property
    def targets(self) -> dict[str, str]:
        """The grid of each target. The targets are the names of grids, tables and figures.

        If one grid is a copy of another grid, a table name may occur in both grids. Such a name
        belongs to the grid whose name is a prefix of the table name. Without such a grid, the name
        is not a target.
        """
        targets = {}
        for name, grids in self.owners.items():
            meant = [grid for grid in grids if name.startswith(grid)] or grids
            targets |= {name: meant[0]} if len(meant) == 1 else {}
        targets |= {grid: grid for grid in self.files}
        return {name: grid for name, grid in targets.items() if name not in self.rules}

    def target_files(self, target: str) -> list[str]:
        """Return the final files of a table, a figure, or a grid."""
        grid = self.grid(self.targets[target])
        if target != grid.name and target in grid.file.tables:
            return grid.table_files(target)
        if target != grid.name:
            return grid.figure_files(target)
        tables = [file for table in grid.file.tables for file in grid.table_files(table)]
        figures = grid.figure_files(*all_figures(grid))
        return [grid.page, *tables, *figures, *grid.results, grid.certificate]

    def cells_among(self, words: Iterable[str]) -> dict[str, list[str]]:
        """Resolve the grids of these targets, and return the files of the targets that are cells.

        The target of a cell is GRID/MODEL/SAMPLER. The file of this target is the result of the
        cell. If no table shows the cell, the files of this target are the records of the images.
        Snakemake handles words that are not targets. Raises UserError if a grid cannot be resolved,
        or if several grids have a table or figure of the same name.
        """
        cells = {}
        for word in words:
            name = "paper" if word == "all" else word
            grid, _, cell = name.partition("/")
            if name in self.rules:
                continue
            if grid in self.broken:
                raise self.broken[grid]
            if name in self.targets:
                self.grid(self.targets[name])
            elif name in self.owners:
                place = " or ".join(f"results/*/{owner}/{name}.*" for owner in self.owners[name])
                raise UserError(f"{name}: several grids have this name; name a file, {place}")
            elif grid in self.files and (found := self.grid(grid).cells.get(cell)):
                cells[name] = [found.result] if found.measurements else found.records
        return cells
