"""What a table says, as texts that all formats share: a format adds nothing and rounds nothing."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from psld.grid.loading import Grid
from psld.grid.schema import Table
from psld.grid.results import STATUSES, Status, TableEntry

MISSING = "–"
LITERATURE = "†"
MARKS = {"reproduced": " ✓", "off": " ✗"}

DETAILS = (
    "entry", "ours", "paper", "difference", "mark", "samples", "NFE", "sampling (s)", "device"
)  # fmt: skip
"""Columns that say everything of an entry; the table's headings come before them."""


@dataclass(frozen=True)
class Text:
    """A table as people read it."""

    title: str
    caption: str
    headings: int
    """How many columns are row headings."""
    columns: list[str]
    lines: list[list[str]]
    """One a row: our value and, in brackets, the paper's and the difference."""
    marks: list[list[Status]]
    """The status of each entry, row by row."""
    notes: list[str]
    detail_columns: list[str]
    details: list[list[str]]
    """One an entry that is not literature, with the number of samples, wall-clock and device."""


def text_of(table: Table, rows: list[list[TableEntry]]) -> Text:
    return Text(
        title=table.title,
        caption=table.caption,
        headings=len(table.headings),
        columns=[*table.headings, *(column.label for column in table.columns)],
        lines=[[*row[0].row.label, *map(short, row)] for row in rows],
        marks=[[entry.status for entry in row] for row in rows],
        notes=footnotes(table, rows),
        detail_columns=[*table.headings, *DETAILS],
        details=[
            [*entry.row.label, *details_of(entry)]
            for row in rows
            for entry in row
            if entry.evaluation
        ],
    )


def short(entry: TableEntry) -> str:
    """An entry in as few letters as possible."""
    ours, paper, difference = numbers_of(entry)
    if entry.status == "literature":
        return paper if entry.paper is None else f"{paper}{LITERATURE}"
    if entry.paper is None:
        return ours
    if entry.difference is None:
        return f"{ours} ({paper})"
    return f"{ours} ({paper}, {difference}{MARKS.get(entry.status, '')})"


def details_of(entry: TableEntry) -> list[str]:
    """Everything of an entry that is not literature, one text for each of DETAILS."""
    result = entry.result or {}
    seconds = result.get("sampling_seconds")
    return [
        entry.column,
        *numbers_of(entry),
        entry.status,
        str(entry.evaluation.samples),
        f"{result['nfe']:.0f}" if result else MISSING,
        MISSING if seconds is None else f"{seconds:.1f}",
        result.get("sampling_device", MISSING),
    ]


def numbers_of(entry: TableEntry) -> tuple[str, str, str]:
    """Our value, the paper's, and the difference."""
    digits = 0 if entry.show == "nfe" else 2
    numbers = ((entry.value, ""), (entry.paper, ""), (entry.difference, "+"))
    ours, paper, difference = (
        MISSING if number is None else f"{number:{sign}.{digits}f}" for number, sign in numbers
    )
    return ours, paper, difference


def footnotes(table: Table, rows: list[list[TableEntry]]) -> list[str]:
    """The table's own footnotes, the scale of each metric in it, and what is missing."""
    entries = [entry for line in rows for entry in line]
    notes = list(table.footnotes)
    for name, result in scales_of(entries).items():
        scale = f"Scale of {name}: standard normal noise has {result['noise']:.1f}"
        if result["floor"] is not None:
            scale += f", the test split {result['floor']:.2f}"
        if result["extractor_test_accuracy"] is not None:
            accuracy = result["extractor_test_accuracy"]
            scale += f"; the classifier's test accuracy is {accuracy:.3f}"
        notes.append(f"{scale}.")
    missing = sum(entry.status == "not run" for entry in entries)
    if missing:
        notes.append(f"{missing} of {len(entries)} entries have not been run ({MISSING}).")
    ours = [entry for entry in entries if entry.status != "literature"]
    if any(entry.paper is not None for entry in ours):
        notes.append("In brackets: the paper's value, and ours less the paper's.")
        notes.extend(_meaning_of_marks(table))
    if len(ours) < len(entries):
        notes.append(f"{LITERATURE} From other papers, as this one prints them; not run here.")
    return notes


def scales_of(entries: list[TableEntry]) -> dict[str, dict[str, Any]]:
    """A result for each metric, and for each dataset where there are several, by their names."""
    results = [entry.result for entry in entries if entry.result]
    kinds = [(result["metric"]["name"], dataset_of(result)) for result in results]
    several = len({dataset for _, dataset in kinds}) > 1
    names = [f"{metric} on {dataset}" if several else metric for metric, dataset in kinds]
    return dict(zip(names, results, strict=True))


def dataset_of(result: dict[str, Any]) -> str:
    return result["model"]["settings"]["dataset"]["name"]


def _meaning_of_marks(table: Table) -> list[str]:
    if table.band is None:
        return []
    reproduced, off = (MARKS[status].strip() for status in ("reproduced", "off"))
    relative = f"{table.band.relative:.0%}"
    return [
        f"{reproduced} within {table.band.absolute:g} or {relative} of the paper's value, the "
        f"wider of both (network evaluations: {relative}); {off} further away. {table.band.reason}"
    ]


def summary(grid: Grid, tables: dict[str, list[list[TableEntry]]]) -> Text:
    """How many entries of each table are reproduced, off, measured, not run or literature."""
    counts = {n: Counter(e.status for row in rows for e in row) for n, rows in tables.items()}
    lines = [[name, *(str(count[status]) for status in STATUSES)] for name, count in counts.items()]
    return Text(
        title=f"Grid {grid.name}: entries by table",
        caption="",
        headings=1,
        columns=["table", *STATUSES],
        lines=lines,
        marks=[],
        notes=["Measured: there is no number of the paper's, or no band, to compare with."],
        detail_columns=[],
        details=[],
    )
