"""The texts of a table, shared by all formats: a format adds nothing and rounds nothing."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from psld.grid.cells import Grid
from psld.grid.entries import STATUSES, Entry, Status
from psld.grid.rows import ANSWERS, Comparison
from psld.grid.tables import Table
from psld.metrics.estimate import CONFIDENCE
from psld.metrics.results import NUMBER_KINDS
from psld.metrics.settings import Measurement

MISSING = "–"
LITERATURE = "†"
LISTED = 5
"""The maximum number of files that a note lists."""
MARKS: dict[Status, str] = {
    "reproduced": " ✓",
    "off": " ✗",
    "agrees for these weights": " ✓¹",
    "differs for these weights": " ✗¹",
    "agrees for imported weights": " ✓²",
    "differs for imported weights": " ✗²",
    "undecided": " ?",
}
RANKS = {"best": " ★", "perhaps best": " ≈"}


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
    """What is special in it."""
    alone: list[str] = field(default_factory=list)
    """Notes for a table that stands alone. The page has them once, for all tables."""


def table_text(table: Table, rows: list[list[Entry]]) -> TableText:
    entries = [entry for row in rows for entry in row]
    has_seeds = any(len(entry.cells) > 1 for entry in entries)
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
        notes=list(_notes(table, rows)),
        alone=[*scales(entries), "Marks: docs/results.md, or the page of the grid's results."],
    )


def summary(grid: Grid, tables: dict[str, list[list[Entry]]]) -> TableText:
    """Count the entries of each table by status."""
    counts = {n: Counter(e.status for row in rows for e in row) for n, rows in tables.items()}
    found = [status for status in STATUSES if any(count[status] for count in counts.values())]
    return TableText(
        title=f"Grid {grid.name}: entries by table",
        columns=["table", *found],
        lines=[[n, *(str(count[status]) for status in found)] for n, count in counts.items()],
    )


def best_text(grid: Grid, tables: dict[str, list[list[Entry]]]) -> TableText:
    """Name the best entries of each column, and those that cannot be told from them."""
    lines = []
    for name, rows in tables.items():
        for column in zip(*rows, strict=True):
            alike: dict[tuple[str, Measurement], list[Entry]] = {}
            for entry in column:
                if entry.rank and entry.rank.name in RANKS:
                    alike.setdefault(entry.axis, []).append(entry)
            for entries in alike.values():
                best = next(entry for entry in entries if entry.rank.name == "best")
                others = [", ".join(e.row.label) for e in entries if e.number != best.number]
                title, value = grid.file.tables[name].title, _short(best).partition(" (")[0]
                place = [title, best.column, ", ".join(best.row.label)]
                lines.append([*place, value.removesuffix(RANKS["best"]), "; ".join(others) or "–"])
    columns = ["table", "column", "best as measured", "value", "cannot be told from it"]
    return TableText("The best of each column", columns, lines, headings=2)


def limit_text(table: Table, rows: list[list[Entry]]) -> TableText | None:
    """Return the distances of infinitely many samples with their intervals; None without any."""

    def text(entry: Entry) -> str:
        if (limit := entry.extrapolated) is None:
            return MISSING
        value, low, high = (_number(number, _digits(entry)) for number in limit)
        return f"{value} ({low} to {high})"

    if not any(entry.extrapolated for row in rows for entry in row):
        return None
    return TableText(
        title=f"{table.title}: n → ∞",
        caption="Fréchet distances of infinitely many samples, with their 95 % intervals.",
        headings=len(table.headings),
        columns=[*table.headings, *(column.label for column in table.columns)],
        lines=[[*row[0].row.label, *map(text, row)] for row in rows],
    )


def claims_text(answered: Iterable[Comparison]) -> TableText:
    """Answer the claims of a grid, comparison by comparison."""
    comparisons = list(answered)
    counts = Counter(each.answer for each in comparisons)
    return TableText(
        title="Claims",
        caption=(
            "A claim says of each pair which number is smaller. The difference is this one minus "
            "the other, or the claim's multiple of it; the paper's stands next to it."
        ),
        columns=["claim", "where", "difference", "paper's", "p", "samples", "trainings", "answer"],
        headings=2,
        lines=[_claim_line(each) for each in comparisons],
        notes=[
            f"{len(comparisons)} comparisons: "
            f"{', '.join(f'{counts[answer]} {answer}' for answer in ANSWERS if counts[answer])}.",
            "± half of the 95 % interval of the difference, paired where both draw the same noise: "
            "a difference within it cannot be told from none. Agrees, contradicts: p < 0.05, with "
            "Holm's correction for the comparisons of the claim. Without ±: counts, as they are.",
            "For these weights: with fewer than three trainings of one side, the answer covers "
            "other samples of the same weights, but not training again.",
        ],
    )


def _claim_line(answered: Comparison) -> list[str]:
    smaller, difference, answer = answered.smaller, answered.difference, answered.answer
    error = difference.interval.half_width if difference else 0.0
    digits = _decimals(NUMBER_KINDS[smaller.show].decimals, error)
    shown = [MISSING, _number(answered.paper, digits, "+"), MISSING]
    if difference is not None:
        shown[0] = _number(difference.value, digits, "+")
        if difference.errors:
            shown[0] += f" ± {_number(error, digits)}"
            shown[2] = f"{answered.p_value:.2g}"
        if answer != "cannot tell" and not answered.covers_training:
            answer += " for these weights"
    samples, trainings = f"{smaller.samples:,}", str(answered.trainings or MISSING)
    return [answered.claim, answered.label or MISSING, *shown, samples, trainings, answer]


def _seeds(entries: list[Entry]) -> str:
    """Return the number of seeds that have been run, and of those that are asked for if more."""
    counts = {(len(entry.results), len(entry.cells)) for entry in entries if entry.cells}
    texts = [f"{n}" if n == asked else f"{n} of {asked}" for n, asked in sorted(counts)]
    return ", ".join(texts) or MISSING


def _short(entry: Entry) -> str:
    """Return our value, its interval, its rank and (paper's value, difference and verdict)."""
    digits = _digits(entry)
    paper = _number(entry.paper, digits)
    if entry.status == "literature":
        return paper if entry.paper is None else f"{paper}{LITERATURE}"
    ours = _number(entry.value, digits)
    if entry.interval and entry.interval.half_width:
        ours += f" ± {_number(entry.interval.half_width, digits)}"
    if entry.deviation:
        ours += f", SD {_number(entry.deviation, digits)}"
    if entry.minimum is not None:
        ours += f", min {_number(entry.minimum, digits)}"
    if entry.rank:
        ours += RANKS.get(entry.rank.name, "")
    if entry.paper is None:
        return ours
    if entry.difference is None:
        return f"{ours} ({paper})"
    verdict = MARKS.get(entry.status, "")
    if verdict and entry.missing_seeds:
        verdict += f", {len(entry.results)} of {len(entry.cells)} seeds"
    return f"{ours} ({paper}, {_number(entry.difference, digits, '+')}{verdict})"


def _digits(entry: Entry) -> int:
    """Return the number of decimals: so many that an error is not printed as 0."""
    kind, error = NUMBER_KINDS[entry.show], entry.interval and entry.interval.half_width
    if not kind.from_features or not error or error < 1e-6 * abs(entry.value):
        return kind.decimals
    return _decimals(kind.decimals, error)


def _decimals(fewest: int, error: float) -> int:
    """Return as many decimals as an error needs that is not printed as 0."""
    return max(fewest, -math.floor(math.log10(error))) if error else fewest


def _number(number: float | None, digits: int, sign: str = "") -> str:
    return MISSING if number is None else f"{number:{sign}.{digits}f}"


# -- notes ----------------------------------------------------------------------------------------


def _notes(table: Table, rows: list[list[Entry]]) -> Iterable[str]:
    """Yield the table's footnotes, and what is special in it."""
    entries = [entry for row in rows for entry in row]
    yield from table.footnotes
    counts = Counter(entry.status for entry in entries)
    if counts["not run"]:
        yield f"{counts['not run']} of {len(entries)} entries have not been run ({MISSING})."
    if others := list(dict.fromkeys(path for entry in entries for path in entry.others)):
        more = f" and {len(others) - LISTED} more" if len(others) > LISTED else ""
        yield (
            f"Of other records, so not shown: {', '.join(others[:LISTED])}{more}. Delete them, and "
            "the workflow makes them again."
        )
    samplers = {e.shown.sampler: e.results[0].sampler for e in entries if e.results}
    starts = {name: sampler.get("start") for name, sampler in samplers.items()}
    if names := sorted(name for name, start in starts.items() if start == "gaussian"):
        yield f"Starts from the mean and covariance of the training images: {', '.join(names)}."
    if band := table.band:
        yield (
            f"Band (✓ ✗): {band.absolute:g} or {band.relative:.0%} of the paper's value, whichever "
            f"is wider (network evaluations: {band.relative:.0%}). {band.reason}"
        )
    weights = [r.model.imported for entry in entries for r in entry.results]
    if files := {w.sha256: f"{w.file} (SHA-256 {w.sha256})" for w in weights if w}:
        yield f"² Imported weights, not trained here: {'; '.join(files.values())}."
    if alike := [pair for column in zip(*rows, strict=True) for pair in _alike(column)]:
        yield f"✓ for both, bands that overlap, and no difference left: {'; '.join(alike)}."
    if counts["undecided"]:
        note = f"{counts['undecided']} of {len(entries)} entries are undecided (?)"
        needs = Counter(entry.needs for entry in entries)
        if most := max(entry.more_samples or 0 for entry in entries):
            samples = f"{most:,} more samples (further seeds)"
            note += f"; up to {samples} can decide {needs['samples']}"
        if needs["trainings"]:
            note += f"; only more trainings can decide {needs['trainings']}"
        yield f"{note}."


def scales(entries: list[Entry]) -> Iterable[str]:
    """Yield the scale of each metric, and of each dataset if there are several."""
    results = [entry.results[0] for entry in entries if entry.results]
    kinds = [(r.metric["name"], r.model.settings["dataset"]["name"]) for r in results]
    several = len({dataset for _, dataset in kinds}) > 1
    for (metric, dataset), result in dict(zip(kinds, results, strict=True)).items():
        name = f"{metric} on {dataset}" if several else metric
        note = f"Scale of {name}: standard normal noise has {_significant(result.noise)}"
        if result.floor is not None:
            split = "training" if result.metric["reference_split"] == "test" else "test"
            count = f" ({result.floor_samples:,} images)" if result.floor_samples else ""
            note += f", the {split} split{count} {_significant(result.floor)}"
        if result.extractor_test_accuracy is not None:
            note += f"; the classifier's test accuracy is {result.extractor_test_accuracy:.3f}"
        yield f"{note}."


def _significant(number: float) -> str:
    """Return a number with three significant digits: scales are of any size."""
    return f"{float(f'{number:.3g}'):,}".removesuffix(".0")


def _alike(column: Iterable[Entry]) -> Iterable[str]:
    """Yield pairs with neighboring numbers of the paper that their verdicts do not tell apart."""
    agreeing = [e for e in column if MARKS.get(e.status, "").startswith(" ✓") and e.show == "value"]
    for a, b in pairwise(sorted(agreeing, key=lambda entry: entry.paper)):
        if 0 < b.paper - a.paper <= a.width + b.width and a.measurement == b.measurement:
            p_value = a.minus(b).p_value
            if p_value >= 1 - CONFIDENCE:
                names = " and ".join(" ".join(entry.row.label) for entry in (a, b))
                yield f"{names} in {a.column} (p = {p_value:.1g})"
