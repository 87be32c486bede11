"""The rows of a grid's tables: their entries, ranked, and the claims that compare them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import chain, repeat
from pathlib import Path
from typing import Literal, get_args

from psld.grid.cells import Cell, Grid
from psld.grid.entries import LEAST_TRAININGS, Entry, Rank
from psld.metrics.estimate import CONFIDENCE, Difference, holm
from psld.metrics.results import Show
from psld.metrics.settings import Measurement


@cache
def all_entries(grid: Grid) -> dict[str, list[list[Entry]]]:
    """The entries of each table, row by row, without results."""
    tables = {}
    for name, table in grid.file.tables.items():
        rows = tables[name] = []
        for row, shown in zip(table.rows, grid.file.shown[name], strict=True):
            papers = row.paper or repeat(None)
            places = zip(table.columns, shown, papers, strict=False)
            entries = [Entry(row, column.label, *each, table.band) for column, *each in places]
            rows.append(entries if row.literature else [_with_cells(grid, e) for e in entries])
    return tables


def _with_cells(grid: Grid, entry: Entry) -> Entry:
    cells, measurement = grid.replicates(entry.shown), grid.measurement(entry.shown)
    return replace(entry, cells=cells, measurement=measurement)


def entries_in(grid: Grid, *tables: str) -> Iterator[Entry]:
    """Yield the entries of these tables, or of all tables if none is named, without results."""
    for name in tables or grid.file.tables:
        yield from chain.from_iterable(all_entries(grid)[name])


def distances(grid: Grid) -> list[Entry]:
    """Return the entries that show a metric, one for each cell and measurement."""
    entries = (entry for entry in entries_in(grid) if entry.cells and entry.show == "value")
    return list({entry.number: entry for entry in entries}.values())


def cells_behind(entries: Iterable[Entry]) -> list[Cell]:
    """Return the cells of some entries with all their seeds, each once."""
    return list(dict.fromkeys(cell for entry in entries for cell in entry.cells))


def read_table(grid: Grid, name: str, root: Path = Path()) -> list[list[Entry]]:
    """Return all entries of a table, row by row, with their results so far and their ranks.

    Args:
        root: the folder of the project.
    """
    rows = [[entry.read(root) for entry in row] for row in all_entries(grid)[name]]
    columns = (_ranked(column) for column in zip(*rows, strict=True))
    return [list(row) for row in zip(*columns, strict=True)]


def _ranked(column: Sequence[Entry]) -> list[Entry]:
    """Compare entries of the same metric, dataset and number of samples with the best of them."""
    groups: dict[tuple[str, Measurement], list[Entry]] = {}
    for entry in column:
        if entry.by_cell and entry.show == "value":
            groups.setdefault(entry.axis, []).append(entry)
    ranks = {}
    for (_, measurement), alike in groups.items():
        better = measurement.metric.better
        if better and len(alike) > 1:
            extreme = max if better == "larger" else min
            best = extreme(alike, key=lambda entry: entry.value)
            ranks |= {entry: _rank(entry, best, len(alike) - 1) for entry in alike}
    return [replace(entry, rank=ranks.get(entry)) for entry in column]


def _rank(entry: Entry, best: Entry, comparisons: int) -> Rank:
    if entry.number == best.number:
        return Rank("best")
    difference = entry.minus(best)
    p_value = min(1.0, comparisons * difference.p_value)
    name = "not best" if p_value < 1 - CONFIDENCE else "perhaps best"
    return Rank(name, p_value, difference.paired)


def paper_values(grid: Grid) -> dict[tuple[Cell, Measurement], dict[Show, float]]:
    """Return the paper's numbers of each cell and measurement, by kind."""
    printed: dict[tuple[Cell, Measurement], dict[Show, float]] = {}
    for entry in entries_in(grid):
        for cell in entry.cells if entry.paper is not None else ():
            printed.setdefault((cell, entry.measurement), {})[entry.show] = entry.paper
    return printed


# -- claims ---------------------------------------------------------------------------------------

Answer = Literal["agrees", "contradicts", "cannot tell", "not run"]

ANSWERS: tuple[Answer, ...] = get_args(Answer)


@dataclass(frozen=True)
class Comparison:
    """One comparison of a claim, with our two numbers."""

    claim: str
    label: str
    """The values of the claim's lists that tell it from the others."""
    smaller: Entry
    larger: Entry
    times: float = 1.0
    """The factor of the larger number."""
    p_value: float = 1.0
    """Of the difference, after Holm's correction for the comparisons of the claim."""

    @property
    def paper(self) -> float | None:
        """The paper's difference, if it has both numbers."""
        papers = self.smaller.paper, self.larger.paper
        return None if None in papers else papers[0] - self.times * papers[1]

    @cached_property
    def difference(self) -> Difference | None:
        """The smaller side minus `times` the other; None if one has not been run."""
        has_both = self.smaller.by_cell and self.larger.by_cell
        return self.smaller.minus(self.larger, self.times) if has_both else None

    @property
    def trainings(self) -> int:
        """The number of trainings of the side with fewer."""
        return min(len(side.by_training) for side in (self.smaller, self.larger))

    @property
    def covers_training(self) -> bool:
        """True if the answer is not of these weights alone: a claim is of methods."""
        return self.trainings >= LEAST_TRAININGS

    @property
    def answer(self) -> Answer:
        if self.difference is None:
            return "not run"
        if self.p_value >= 1 - CONFIDENCE:
            return "cannot tell"
        return "agrees" if self.difference.value < 0 else "contradicts"


def read_claims(grid: Grid, root: Path = Path()) -> Iterator[Comparison]:
    """Yield all comparisons of a grid's claims.

    Args:
        root: the folder of the project.
    """
    shown = {}
    for entry in sorted(entries_in(grid), key=lambda entry: entry.paper is not None):
        shown[entry.shown] = entry  # of several, one with the paper's number
    for claim, pairs in zip(grid.file.claims, grid.file.pairs, strict=True):
        compared = [
            Comparison(claim.claim, label, *(shown[side].read(root) for side in sides), claim.times)
            for label, *sides in pairs
        ]
        # What was not run counts as a comparison that finds nothing.
        p_values = holm([each.difference.p_value if each.difference else 1.0 for each in compared])
        for each, p_value in zip(compared, p_values, strict=True):
            yield replace(each, p_value=p_value)
