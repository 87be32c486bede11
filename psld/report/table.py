"""The texts of a table, shared by all formats: a format adds nothing and rounds nothing."""

from collections import Counter
from dataclasses import dataclass, field

from psld.grid.resolved import Grid
from psld.grid.results import STATUSES, CellResult, Status, TableEntry
from psld.grid.schema import Table

MISSING = "–"
LITERATURE = "†"
MARKS = {"reproduced": " ✓", "off": " ✗"}

EVERY_ENTRY = "Every entry; sampling time in seconds, summed over shards"
DETAILS = (
    "entry", "ours", "paper", "difference", "mark", "samples", "NFE", "sampling (s)", "device"
)  # fmt: skip
"""Columns of the list of all entries, after the table's headings."""


@dataclass(frozen=True)
class Text:
    """A table as people read it."""

    title: str
    caption: str
    headings: int  # number of columns that are row headings
    columns: list[str]
    lines: list[list[str]]  # our values and, in brackets, the paper's and the differences
    marks: list[list[Status]] = field(default_factory=list)  # of each entry, row by row
    notes: list[str] = field(default_factory=list)
    detail_columns: list[str] = field(default_factory=list)
    details: list[list[str]] = field(default_factory=list)  # of entries that are not literature


def text_of(table: Table, rows: list[list[TableEntry]]) -> Text:
    entries = [entry for row in rows for entry in row]
    return Text(
        title=table.title,
        caption=table.caption,
        headings=len(table.headings),
        columns=[*table.headings, *(column.label for column in table.columns)],
        lines=[[*row[0].row.label, *map(_short, row)] for row in rows],
        marks=[[entry.status for entry in row] for row in rows],
        notes=_notes(table, entries),
        detail_columns=[*table.headings, *DETAILS],
        details=[_details(entry) for entry in entries if entry.evaluation],
    )


def summary(grid: Grid, tables: dict[str, list[list[TableEntry]]]) -> Text:
    """Count the entries of each table by status."""
    counts = {n: Counter(e.status for row in rows for e in row) for n, rows in tables.items()}
    return Text(
        title=f"Grid {grid.name}: entries by table",
        caption="",
        headings=1,
        columns=["table", *STATUSES],
        lines=[[n, *(str(count[status]) for status in STATUSES)] for n, count in counts.items()],
        notes=["Measured: the paper has no number, or the table no band, to compare with."],
    )


def _short(entry: TableEntry) -> str:
    """Return our value, then (paper's value, difference and mark)."""
    ours, paper, difference = _numbers(entry)
    if entry.status == "literature":
        return paper if entry.paper is None else f"{paper}{LITERATURE}"
    if entry.paper is None:
        return ours
    if entry.difference is None:
        return f"{ours} ({paper})"
    return f"{ours} ({paper}, {difference}{MARKS.get(entry.status, '')})"


def _details(entry: TableEntry) -> list[str]:
    result = entry.result
    return [
        *entry.row.label,
        entry.column,
        *_numbers(entry),
        entry.status,
        str(entry.evaluation.samples),
        f"{result.nfe:.0f}" if result else MISSING,
        f"{result.sampling_seconds:.1f}" if result else MISSING,
        result.sampling_device if result else MISSING,
    ]


def _numbers(entry: TableEntry) -> list[str]:
    """Return our value, the paper's, and the difference."""
    digits = 0 if entry.show == "nfe" else 2
    numbers = ((entry.value, ""), (entry.paper, ""), (entry.difference, "+"))
    return [MISSING if n is None else f"{n:{sign}.{digits}f}" for n, sign in numbers]


def _notes(table: Table, entries: list[TableEntry]) -> list[str]:
    """Return the table's footnotes, the scales of its metrics, and the meaning of its marks."""
    notes = list(table.footnotes)
    for name, result in scales(entries).items():
        note = f"Scale of {name}: standard normal noise has {result.noise:.1f}"
        if result.floor is not None:
            note += f", the test split {result.floor:.2f}"
        if result.extractor_test_accuracy is not None:
            note += f"; the classifier's test accuracy is {result.extractor_test_accuracy:.3f}"
        notes.append(f"{note}.")
    missing = sum(entry.status == "not run" for entry in entries)
    if missing:
        notes.append(f"{missing} of {len(entries)} entries have not been run ({MISSING}).")
    if any(entry.paper is not None and entry.status != "literature" for entry in entries):
        notes.append("In brackets: the paper's value and the difference (ours minus the paper's).")
        if band := table.band:
            notes.append(
                f"✓ within {band.absolute:g} or {band.relative:.0%} of the paper's value, "
                f"whichever is wider (network evaluations: {band.relative:.0%}); ✗ outside. "
                f"{band.reason}"
            )
    if any(entry.status == "literature" for entry in entries):
        notes.append(f"{LITERATURE} From other papers, as printed in this one; not run here.")
    return notes


def scales(entries: list[TableEntry]) -> dict[str, CellResult]:
    """Return a result for each metric, and each dataset if there are several, by name."""
    results = [entry.result for entry in entries if entry.result]
    kinds = [(r.metric["name"], r.model.settings["dataset"]["name"]) for r in results]
    several = len({dataset for _, dataset in kinds}) > 1
    names = [f"{metric} on {dataset}" if several else metric for metric, dataset in kinds]
    return dict(zip(names, results, strict=True))
