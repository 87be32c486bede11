"""The texts of a table, shared by all formats: a format adds nothing and rounds nothing."""

import math
from collections import Counter
from collections.abc import Iterable, Sized
from dataclasses import dataclass, field
from statistics import fmean

from psld.grid.entries import STATUSES, Status, TableEntry
from psld.grid.records import Grid
from psld.grid.tables import Table
from psld.metrics.results import CellResult

MISSING = "–"
LITERATURE = "†"
MARKS = {"reproduced": " ✓", "off": " ✗", "undecided": " ?"}
RANKS = {"best": " ★", "not worse": " ≈"}

EVERY_ENTRY = "Every entry; sampling time in seconds, summed over shards"
DETAILS = (
    *("entry", "ours", "95 % interval", "n → ∞", "p against ★", "paper", "difference", "mark"),
    *("more samples", "samples", "NFE", "sampling (s)", "device"),
)
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
    seeds = any(entry.seeds > 1 for entry in entries)
    headings = [*table.headings, *(["seeds"] if seeds else [])]

    def labels(row: Iterable[TableEntry]) -> list[str]:
        row = list(row)
        return [*row[0].row.label, *([_seeds(row)] if seeds else [])]

    return Text(
        title=table.title,
        caption=table.caption,
        headings=len(headings),
        columns=[*headings, *(column.label for column in table.columns)],
        lines=[[*labels(row), *map(_short, row)] for row in rows],
        marks=[[entry.status for entry in row] for row in rows],
        notes=_notes(table, entries),
        detail_columns=[*headings, *DETAILS],
        details=[[*labels([e]), *_details(e)] for e in entries if e.status != "literature"],
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


def _seeds(entries: list[TableEntry]) -> str:
    """Return the number of seeds that have been run, and of those that are asked for if more."""
    counts = {(len(entry.results), entry.seeds) for entry in entries if entry.number}
    texts = [f"{n}" if n == asked else f"{n} of {asked}" for n, asked in sorted(counts)]
    return ", ".join(texts) or MISSING


def _short(entry: TableEntry) -> str:
    """Return our value, its error, its rank and (paper's value, difference and verdict)."""
    digits = _digits(entry)
    paper = _number(entry.paper, digits)
    if entry.status == "literature":
        return paper if entry.paper is None else f"{paper}{LITERATURE}"
    ours = _number(entry.value, digits)
    if error := _error(entry):
        ours += f" ± {_number(error, digits)}"
    if entry.deviation:
        ours += f", min {_number(entry.minimum, digits)}"
    ours += RANKS.get(entry.rank.name, "") if entry.rank else ""
    if entry.paper is None:
        return ours
    if entry.difference is None:
        return f"{ours} ({paper})"
    difference = _number(entry.difference, digits, "+")
    return f"{ours} ({paper}, {difference}{MARKS.get(entry.status, '')})"


def _error(entry: TableEntry) -> float | None:
    """Return the standard deviation over seeds, or of a single seed half of the interval."""
    if entry.deviation is not None:
        return entry.deviation
    return entry.interval and entry.interval.half_width


def _digits(entry: TableEntry) -> int:
    """Return the number of decimals: so many that an error is not printed as 0."""
    error, value = _error(entry), entry.value
    if entry.show == "nfe":
        return 0
    if not error or error < 1e-6 * abs(value):
        return 2
    return max(2, -math.floor(math.log10(error)))


def _number(number: float | None, digits: int, sign: str = "") -> str:
    return MISSING if number is None else f"{number:{sign}.{digits}f}"


def _significant(number: float) -> str:
    """Return a number with three significant digits: scales are of any size."""
    return f"{float(f'{number:.3g}'):,}".removesuffix(".0")


def _details(entry: TableEntry) -> list[str]:
    results, digits, interval = entry.results, _digits(entry), entry.interval
    p_value = entry.rank and entry.rank.p_value
    ends = interval and f"{interval.low:.{digits}f} to {interval.high:.{digits}f}"
    return [
        entry.column,
        _number(entry.value, digits),
        ends or MISSING,
        _number(entry.extrapolated, digits),
        MISSING if p_value is None else f"{p_value:.2g}",
        _number(entry.paper, digits),
        _number(entry.difference, digits, "+"),
        entry.status,
        _more(entry),
        MISSING if entry.samples is None else str(entry.samples),
        f"{fmean(r.nfe for r in results):.0f}" if results else MISSING,
        f"{sum(r.sampling_seconds for r in results):.1f}" if results else MISSING,
        ", ".join(dict.fromkeys(r.sampling_device for r in results)) or MISSING,
    ]


def _more(entry: TableEntry) -> str:
    if entry.needs is None:
        return MISSING
    known = f"{entry.more_samples:,}" if entry.more_samples else "more"
    return known if entry.needs == "samples" else f"{known} {entry.needs}"


def _notes(table: Table, entries: list[TableEntry]) -> list[str]:
    """Return the table's footnotes, the scales of its metrics, and the meaning of its marks."""
    notes = list(table.footnotes)
    for name, result in scales(entries).items():
        note = f"Scale of {name}: standard normal noise has {_significant(result.noise)}"
        if result.floor is not None:
            note += f", the test split {_significant(result.floor)}"
        if result.extractor_test_accuracy is not None:
            note += f"; the classifier's test accuracy is {result.extractor_test_accuracy:.3f}"
        notes.append(f"{note}.")
    missing = sum(entry.status == "not run" for entry in entries)
    if missing:
        notes.append(f"{missing} of {len(entries)} entries have not been run ({MISSING}).")
    notes += _notes_of_errors(entries)
    if any(entry.paper is not None and entry.status != "literature" for entry in entries):
        notes.append("In brackets: the paper's value and the difference (ours minus the paper's).")
        if band := table.band:
            notes.append(
                f"✓ within {band.absolute:g} or {band.relative:.0%} of the paper's value, "
                f"whichever is wider (network evaluations: {band.relative:.0%}), with the whole "
                f"95 % interval; ✗ the whole interval outside; ? undecided. {band.reason}"
            )
    notes += _notes_of_undecided(entries)
    if any(entry.status == "literature" for entry in entries):
        notes.append(f"{LITERATURE} From other papers, as printed in this one; not run here.")
    return notes


def _notes_of_undecided(entries: list[TableEntry]) -> list[str]:
    """Return what would decide the undecided entries, by what each of them needs."""
    undecided = [entry for entry in entries if entry.status == "undecided"]
    if not undecided:
        return []
    parts = [f"{len(undecided)} of {len(entries)} entries are undecided."]
    more = [entry.more_samples for entry in undecided if entry.needs == "samples"]
    if known := [number for number in more if number is not None]:
        parts.append(
            f"Up to {max(known):,} more samples, as further seeds, would decide {_count(known)} if "
            "the value stays: see the list of every entry."
        )
    if unknown := [number for number in more if number is None]:
        parts.append(
            f"The value of {_count(unknown)} is on an end of the band: if it stays, no number of "
            "samples decides."
        )
    if trainings := [entry for entry in undecided if entry.needs == "trainings"]:
        parts.append(
            f"{_count(trainings)} can be decided by more trainings only: the spread "
            "over trainings is wider than the error of sampling."
        )
    return [" ".join(parts)]


def _count(entries: Sized) -> str:
    return "1 entry" if len(entries) == 1 else f"{len(entries)} entries"


def _notes_of_errors(entries: list[TableEntry]) -> list[str]:
    """Return what ± and the ranks mean in this table."""
    notes = []
    drawn = (entry for entry in entries if entry.results)
    if any(entry.interval and entry.deviation is None for entry in drawn):
        notes.append(
            "± half of the 95 % interval, which covers other samples of the same weights; not "
            "training again, nor other images of the reference."
        )
    if any(entry.deviation is not None for entry in entries):
        several = any(entry.measured.trained() for entry in entries if entry.results)
        covers = "training again" if several else "other samples of the same weights"
        notes.append(
            "Several seeds: mean ± standard deviation over seeds, and the minimum. The 95 % "
            f"interval of the mean covers {covers}: see the list of every entry."
        )
    pairings = {entry.rank.paired for entry in entries if entry.rank} - {None}
    if pairings:
        kinds = {frozenset([True]): "paired by samples", frozenset([False]): "unpaired"}
        both = (
            "paired by samples if both draw the same noise (sampler, sampling seeds, and number of "
            "blocks of variables), else unpaired"
        )
        measures = {e.results[0].metric["measure"]["kind"] for e in entries if e.results}
        none = " (of memorization, none is)" if "memorization" in measures else ""
        notes.append(
            f"★ the best of its column{none}; ≈ not significantly worse at 5 %, with Bonferroni's "
            f"correction for the column; {kinds.get(frozenset(pairings), both)}."
        )
    return notes


def scales(entries: list[TableEntry]) -> dict[str, CellResult]:
    """Return a result for each metric, and each dataset if there are several, by name."""
    results = [entry.results[0] for entry in entries if entry.results]
    kinds = [(r.metric["name"], r.model.settings["dataset"]["name"]) for r in results]
    several = len({dataset for _, dataset in kinds}) > 1
    names = [f"{metric} on {dataset}" if several else metric for metric, dataset in kinds]
    return dict(zip(names, results, strict=True))
