"""The rows of tables in a grid: entries with ranks, CSV files, and claims about the entries."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import chain, repeat
from operator import attrgetter
from pathlib import Path, PurePath
from typing import Any, Literal, get_args

from psld.evaluation.results import Show
from psld.evaluation.settings import Measurement
from psld.grid.cells import Cell, Grid
from psld.grid.entries import Entry, Rank
from psld.grid.tables import RECORDED, Column, Row, Shown, Table
from psld.metrics.estimate import CONFIDENCE, Difference, holm
from psld.sampling.settings import sampler_content


@cache
def all_entries(grid: Grid) -> dict[str, list[list[Entry]]]:
    """Return the entries of each table, row by row, without results."""

    def entry(table: Table, row: Row, column: Column, shown: Shown, paper: float | None) -> Entry:
        place = row, column.label, shown, paper, table.band
        if row.literature:
            return Entry(*place)
        return Entry(*place, grid.replicates(shown), grid.measurement(shown))

    tables = {}
    for name, table in grid.file.tables.items():
        rows = tables[name] = []
        for row, shown in zip(table.rows, grid.file.shown[name], strict=True):
            places = zip(table.columns, shown, row.paper or repeat(None), strict=False)
            rows.append([entry(table, row, *place) for place in places])
    return tables


def entries_in(grid: Grid, *tables: str) -> Iterator[Entry]:
    """Yield the entries of these tables without results. Without names, use all tables."""
    for name in tables or grid.file.tables:
        yield from chain.from_iterable(all_entries(grid)[name])


def distances(grid: Grid) -> list[Entry]:
    """Return the entries that show the value of a metric.

    Each pair of cell and measurement occurs once.
    """
    entries = (entry for entry in entries_in(grid) if entry.cells and entry.show == "value")
    return list({entry.number: entry for entry in entries}.values())


def cells_behind(entries: Iterable[Entry]) -> list[Cell]:
    """Return the cells of these entries for all seeds, without duplicates."""
    return list(dict.fromkeys(cell for entry in entries for cell in entry.cells))


def read_table(grid: Grid, name: str, root: Path = Path()) -> list[list[Entry]]:
    """Return all entries of a table, row by row, with their ranks and the results below `root`."""
    rows = [[entry.read(root) for entry in row] for row in all_entries(grid)[name]]
    columns = (ranked(column) for column in zip(*rows, strict=True))
    return [list(row) for row in zip(*columns, strict=True)]


def read_tables(grid: Grid, root: Path = Path()) -> dict[str, list[list[Entry]]]:
    return {name: read_table(grid, name, root) for name in grid.file.tables}


def ranked(entries: Sequence[Entry]) -> list[Entry]:
    """Rank each entry relative to the best comparable entry.

    Entries are comparable if they have the same metric, dataset and number of samples.
    """
    groups: dict[tuple[str, Measurement], list[Entry]] = {}
    for entry in entries:
        if entry.by_cell and entry.show == "value":
            groups.setdefault(entry.axis, []).append(entry)
    ranks = {}
    for alike in groups.values():
        if len(alike) > 1 and alike[0].loss is not None:
            best = min(alike, key=attrgetter("loss"))
            ranks |= {entry: _rank(entry, best, len(alike) - 1) for entry in alike}
    return [replace(entry, rank=ranks.get(entry)) for entry in entries]


def _rank(entry: Entry, best: Entry, comparisons: int) -> Rank:
    if entry.number == best.number:
        return Rank("best")
    difference = entry.worse_than(best)
    p_value = min(1.0, comparisons * difference.p_value)
    name = "not best" if p_value < 1 - CONFIDENCE else "perhaps best"
    a, b = entry.interval, best.interval
    overlaps = bool(a and b and a.low <= b.high and b.low <= a.high)
    return Rank(name, p_value, difference.paired, overlaps)


def paper_values(grid: Grid) -> dict[tuple[Cell, Measurement], dict[Show, float]]:
    """Return the paper's numbers of each pair of cell and measurement, keyed by the kind of
    number."""
    printed: dict[tuple[Cell, Measurement], dict[Show, float]] = {}
    for entry in entries_in(grid):
        if entry.paper is not None:
            for cell in entry.cells:
                printed.setdefault((cell, entry.measurement), {})[entry.show] = entry.paper
    return printed


def as_csv(table: Table, rows: list[list[Entry]]) -> str:
    """Return the table as CSV, one line for each entry."""
    stream = io.StringIO()
    entries = [csv_line(table, entry) for row in rows for entry in row]
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows(map(_no_formula, line) for line in (entries[0], *map(dict.values, entries)))
    return stream.getvalue()


def _no_formula(value: object) -> object:
    """Return a CSV value. Text that spreadsheets would read as a formula gets an apostrophe."""
    return f"'{value}" if isinstance(value, str) and re.match(r"[=+\-@\t\r]", value) else value


def csv_line(table: Table, entry: Entry) -> dict[str, Any]:
    interval, rank, limit, results = entry.interval, entry.rank, entry.extrapolated, entry.results
    known = {
        "seeds": len(results) if entry.cells else None,
        "cell": f"{entry.cell.grid}/{entry.cell.name}" if entry.cells else None,
        "metric": entry.shown.metric,
        "shows": entry.show,
        "ours": entry.value,
        "low": interval and interval.low,
        "high": interval and interval.high,
        "extrapolated": limit and limit.value,
        "extrapolated_low": limit and limit.low,
        "extrapolated_high": limit and limit.high,
        "source": entry.row.source,
        "band": entry.width,
        "rank": rank and rank.name,
        "p_value": rank and rank.p_value,
        "paired": rank and rank.paired,
        "sampling_seconds": sum(r.sampling_seconds for r in results) if results else None,
        "sampling_device": ", ".join(dict.fromkeys(r.sampling_device for r in results)) or None,
    }
    labels = dict(zip(table.headings, entry.row.label, strict=True))
    # Each of the other columns has the name of an attribute of the entry.
    return labels | {c: known[c] if c in known else getattr(entry, c) for c in RECORDED}


# -- claims ---------------------------------------------------------------------------------------

Answer = Literal["agrees", "contradicts", "cannot tell", "not run"]

ANSWERS: tuple[Answer, ...] = get_args(Answer)


@dataclass(frozen=True)
class Comparison:
    claim: str
    label: str
    """The values that this comparison takes from the lists in `over`, a setting of the claim."""
    smaller: Entry
    larger: Entry
    times: float = 1.0
    """The factor by which the larger number is multiplied."""
    p_value: float = 1.0
    """The p-value of the difference, after Holm's correction for the comparisons of the claim."""

    @property
    def paper(self) -> float | None:
        one, two = self.smaller.paper, self.larger.paper
        return None if one is None or two is None else one - self.times * two

    @cached_property
    def difference(self) -> Difference | None:
        """The number of `smaller` minus `times` the number of `larger`, as measured.

        None if either entry has no results.
        """
        has_both = self.smaller.by_cell and self.larger.by_cell
        return self.smaller.minus(self.larger, self.times) if has_both else None

    @property
    def trainings(self) -> int:
        return min(len(side.by_training) for side in (self.smaller, self.larger))

    @property
    def answer(self) -> Answer:
        if self.difference is None:
            return "not run"
        if self.p_value >= 1 - CONFIDENCE:
            return "cannot tell"
        return "agrees" if self.difference.value < 0 else "contradicts"


def read_claims(grid: Grid, root: Path = Path()) -> Iterator[Comparison]:
    """Yield all comparisons in the claims of a grid, with the results below `root`."""
    shown = {}
    for entry in sorted(entries_in(grid), key=lambda entry: entry.paper is not None):
        shown[entry.shown] = entry  # Prefer an entry that has a number of the paper.
    for claim, pairs in zip(grid.file.claims, grid.file.pairs, strict=True):
        compared = [
            Comparison(claim.claim, label, shown[a].read(root), shown[b].read(root), claim.times)
            for label, a, b in pairs
        ]
        # Holm's correction counts a comparison without results as not significant.
        p_values = holm([each.difference.p_value if each.difference else 1.0 for each in compared])
        for each, p_value in zip(compared, p_values, strict=True):
            yield replace(each, p_value=p_value)


# -- the content that determines a grid's numbers --------------------------------------------------

RESOLVED = {"defaults", "metric", "samples", "models", "guides", "samplers", "tables"}
RESOLVED |= {"cell", "rows", "columns"}
"""Keys of a grid file that `decisive_content` omits, because the function returns the resolved
values of these keys."""


def decisive_content(grid: Grid) -> dict[str, Any]:
    """Return all data that determines the numbers, verdicts and texts of a grid.

    The keys name models, samplers, tables and other parts of the grid.
    """
    file = grid.file
    parts = {"grid": file.model_dump(mode="json", exclude=file.free() | RESOLVED)}
    for kind, records in (("models", grid.models), ("guides", grid.guides)):
        for name, record in records.items():
            process = record.settings.process.model_dump(mode="json")
            identity = record.settings.model().identity()
            checkpoint = record.checkpoint and PurePath(record.checkpoint).name
            parts[f"{kind}.{name}"] = identity | {"process": process, "checkpoint": checkpoint}
    for name, sampler in grid.samplers.items():
        parts[f"samplers.{name}"] = sampler_content(sampler.settings) | {"guide": sampler.guide}
    for name, metric in grid.metrics.items():
        parts[f"metrics.{name}"] = metric.identity()
    for name, dataset in grid.datasets.items():
        decode = dataset.settings.dataset.decode
        decided = {"decode": decode.identity()} if decode else {}
        parts[f"datasets.{name}"] = dataset.settings.dataset.preparation() | decided
    for name, table in file.tables.items():
        parts[f"tables.{name}"] = table.model_dump(mode="json", exclude=table.free() | RESOLVED)
        for entry in entries_in(grid, name):
            key = f"tables.{name}: {entry.label}"
            while key in parts:  # Rows may have equal labels.
                key += " (again)"
            row = entry.row.model_dump(include={"source", "literature"})
            parts[key] = {"paper": entry.paper, **entry.shown.model_dump(), **row}
    return parts
