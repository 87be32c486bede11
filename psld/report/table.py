"""The texts of a table, shared by all formats: a format adds nothing and rounds nothing."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from psld.grid.entries import STATUSES, Status, TableEntry
from psld.grid.records import Grid
from psld.grid.tables import Table
from psld.metrics.results import NUMBER_KINDS, CellResult

MISSING = "–"
LITERATURE = "†"
MARKS = {"reproduced": " ✓", "off": " ✗", "undecided": " ?"}
RANKS = {"best": " ★", "not worse": " ≈"}


@dataclass(frozen=True)
class TableText:
    """A table as people read it."""

    title: str
    columns: list[str]
    lines: list[list[str]]
    """Our values and, in brackets, the paper's and the differences."""
    headings: int = 1
    """The number of columns that are row headings."""
    caption: str = ""
    marks: list[list[Status]] = field(default_factory=list)
    """Of each entry, row by row."""
    notes: list[str] = field(default_factory=list)


def table_text(table: Table, rows: list[list[TableEntry]]) -> TableText:
    entries = [entry for row in rows for entry in row]
    has_seeds = any(entry.seeds > 1 for entry in entries)
    headings = [*table.headings, *(["seeds"] if has_seeds else [])]

    return TableText(
        title=table.title,
        caption=table.caption,
        headings=len(headings),
        columns=[*headings, *(column.label for column in table.columns)],
        lines=[
            [*row[0].row.label, *([_seeds(row)] if has_seeds else []), *map(_short, row)]
            for row in rows
        ],
        marks=[[entry.status for entry in row] for row in rows],
        notes=list(_notes(table, entries)),
    )


def summary(grid: Grid, tables: dict[str, list[list[TableEntry]]]) -> TableText:
    """Count the entries of each table by status."""
    counts = {n: Counter(e.status for row in rows for e in row) for n, rows in tables.items()}
    return TableText(
        title=f"Grid {grid.name}: entries by table",
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
    if entry.rank:
        ours += RANKS.get(entry.rank.name, "")
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
    kind, error = NUMBER_KINDS[entry.show], _error(entry)
    if not kind.from_features or not error or error < 1e-6 * abs(entry.value):
        return kind.decimals
    return max(kind.decimals, -math.floor(math.log10(error)))


def _number(number: float | None, digits: int, sign: str = "") -> str:
    return MISSING if number is None else f"{number:{sign}.{digits}f}"


# -- notes ----------------------------------------------------------------------------------------


def _notes(table: Table, entries: list[TableEntry]) -> Iterable[str]:
    """Yield the table's footnotes, the scales of its metrics, and the meaning of its marks."""
    yield from table.footnotes
    for name, result in scales(entries).items():
        yield _scale_note(name, result)
    missing = sum(entry.status == "not run" for entry in entries)
    if missing:
        yield f"{missing} of {len(entries)} entries have not been run ({MISSING})."
    samplers = {e.number.sampler: e.results[0].sampler or {} for e in entries if e.results}
    starts = {name: sampler.get("start") for name, sampler in samplers.items()}
    if names := sorted(name for name, start in starts.items() if start == "gaussian"):
        yield f"Starts from the mean and covariance of the training images: {', '.join(names)}."
    yield from _error_notes(entries)
    yield from _rank_notes(entries)
    if any(entry.paper is not None and entry.status != "literature" for entry in entries):
        yield "In brackets: the paper's value and the difference (ours minus the paper's)."
        if band := table.band:
            yield (
                f"✓ within {band.absolute:g} or {band.relative:.0%} of the paper's value, "
                f"whichever is wider (network evaluations: {band.relative:.0%}), with the whole "
                f"95 % interval; ✗ the whole interval outside; ? undecided. {band.reason}"
            )
    yield from _undecided_notes(entries)
    if any(entry.status == "literature" for entry in entries):
        yield f"{LITERATURE} From other papers, as printed in this one; not run here."


def scales(entries: list[TableEntry]) -> dict[str, CellResult]:
    """Return a result for each metric, and each dataset if there are several, by name."""
    results = [entry.results[0] for entry in entries if entry.results and entry.results[0].model]
    kinds = [(r.metric["name"], r.model.settings["dataset"]["name"]) for r in results]
    several = len({dataset for _, dataset in kinds}) > 1
    names = [f"{metric} on {dataset}" if several else metric for metric, dataset in kinds]
    return dict(zip(names, results, strict=True))


def _scale_note(name: str, result: CellResult) -> str:
    note = f"Scale of {name}: standard normal noise has {_significant(result.noise)}"
    if result.floor is not None:
        note += f", the test split {_significant(result.floor)}"
    if result.extractor_test_accuracy is not None:
        note += f"; the classifier's test accuracy is {result.extractor_test_accuracy:.3f}"
    return f"{note}."


def _significant(number: float) -> str:
    """Return a number with three significant digits: scales are of any size."""
    return f"{float(f'{number:.3g}'):,}".removesuffix(".0")


def _error_notes(entries: list[TableEntry]) -> Iterable[str]:
    """Yield what ± means in this table."""
    run = [entry for entry in entries if entry.results]
    if any(entry.interval and entry.deviation is None for entry in run):
        yield (
            "± half of the 95 % interval, which covers other samples of the same weights; not "
            "training again, nor other images of the reference."
        )
    if any(entry.deviation is not None for entry in run):
        several = any(entry.measured.trained() for entry in run)
        covers = "training again" if several else "other samples of the same weights"
        yield (
            "Several seeds: mean ± standard deviation over seeds, and the minimum. The 95 % "
            f"interval of the mean, which the CSV has, covers {covers}."
        )


def _rank_notes(entries: list[TableEntry]) -> Iterable[str]:
    """Yield what the ranks mean in this table."""
    if any(entry.rank and entry.rank.p_value is not None for entry in entries):
        yield (
            "★ the best of its column; ≈ not significantly worse at 5 %, with Bonferroni's "
            "correction for the column; paired by samples if both draw the same noise (sampler, "
            "sampling seeds, and number of blocks of variables), else unpaired."
        )


def _undecided_notes(entries: list[TableEntry]) -> Iterable[str]:
    """Yield what would decide the undecided entries, by what each of them needs."""
    undecided = [entry for entry in entries if entry.status == "undecided"]
    if not undecided:
        return
    note = f"{len(undecided)} of {len(entries)} entries are undecided."
    if samples := [entry.more_samples for entry in undecided if entry.more_samples]:
        note += (
            f" Up to {max(samples):,} more samples, as further seeds, would decide "
            f"{_count(len(samples))} if the value stays: see the CSV."
        )
    if trainings := sum(entry.needs == "trainings" for entry in undecided):
        note += (
            f" {_count(trainings)} can be decided by more trainings only: the spread "
            "over trainings is wider than the error of sampling."
        )
    yield note


def _count(entries: int) -> str:
    return "1 entry" if entries == 1 else f"{entries} entries"
