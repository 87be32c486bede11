"""The texts of a table, shared by all formats: a format adds nothing and rounds nothing."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from psld.grid.cells import Grid
from psld.grid.entries import ANSWERS, STATUSES, AnsweredComparison, Status, TableEntry
from psld.grid.tables import Table
from psld.metrics.estimate import CONFIDENCE
from psld.metrics.results import NUMBER_KINDS, CellResult

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
        notes=list(_notes(table, rows)),
    )


def summary(grid: Grid, tables: dict[str, list[list[TableEntry]]]) -> TableText:
    """Count the entries of each table by status."""
    counts = {n: Counter(e.status for row in rows for e in row) for n, rows in tables.items()}
    found = [status for status in STATUSES if any(count[status] for count in counts.values())]
    return TableText(
        title=f"Grid {grid.name}: entries by table",
        columns=["table", *found],
        lines=[[n, *(str(count[status]) for status in found)] for n, count in counts.items()],
        notes=[
            "For these weights: from fewer than three trainings. For imported weights: training "
            "was not repeated. Measured: the paper has no number, the table no band, or the number "
            "is a count of fixed steps."
        ],
    )


def best_text(grid: Grid, tables: dict[str, list[list[TableEntry]]]) -> TableText:
    """Name the best entries of each column, and those that cannot be told from them."""
    lines = []
    for name, rows in tables.items():
        for column in zip(*rows, strict=True):
            alike: dict[tuple[str, str, int], list[TableEntry]] = {}
            for entry in column:
                if entry.rank and entry.rank.name in RANKS:
                    number = entry.number
                    key = number.metric, grid.dataset_of(number), number.samples
                    alike.setdefault(key, []).append(entry)
            for entries in alike.values():
                best = next(entry for entry in entries if entry.rank.name == "best")
                others = [", ".join(e.row.label) for e in entries if e.number != best.number]
                title, value = grid.file.tables[name].title, _short(best).partition(" (")[0]
                place = [title, best.column, ", ".join(best.row.label)]
                lines.append([*place, value.removesuffix(RANKS["best"]), "; ".join(others) or "–"])
    columns = ["table", "column", "best as measured", "value", "cannot be told from it"]
    return TableText("The best of each column", columns, lines, headings=2)


def limit_text(table: Table, rows: list[list[TableEntry]]) -> TableText | None:
    """Return the distances of infinitely many samples with their intervals; None without any."""

    def text(entry: TableEntry) -> str:
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


def claims_text(answered: Iterable[AnsweredComparison]) -> TableText:
    """Answer the claims of a grid, comparison by comparison."""
    comparisons = list(answered)
    counts = Counter(each.answer for each in comparisons)
    return TableText(
        title="Claims",
        caption=(
            "A claim says of each pair which number is smaller. The difference is this one minus "
            "the other; the paper's stands next to it."
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


def _claim_line(answered: AnsweredComparison) -> list[str]:
    compared, difference, answer = answered.compared, answered.difference, answered.answer
    error = difference.interval.half_width if difference else 0.0
    digits = _decimals(NUMBER_KINDS[compared.show].decimals, error)
    shown = [MISSING, _number(answered.paper, digits, "+"), MISSING]
    if difference is not None:
        shown[0] = _number(difference.value, digits, "+")
        if difference.errors:
            shown[0] += f" ± {_number(error, digits)}"
            shown[2] = f"{answered.p_value:.2g}"
        if answer != "cannot tell" and not answered.covers_training:
            answer += " for these weights"
    samples, trainings = f"{compared.smaller.samples:,}", str(answered.trainings or MISSING)
    return [answered.claim, compared.label or MISSING, *shown, samples, trainings, answer]


def _seeds(entries: list[TableEntry]) -> str:
    """Return the number of seeds that have been run, and of those that are asked for if more."""
    counts = {(len(entry.results), entry.seeds) for entry in entries if entry.number}
    texts = [f"{n}" if n == asked else f"{n} of {asked}" for n, asked in sorted(counts)]
    return ", ".join(texts) or MISSING


def _short(entry: TableEntry) -> str:
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
        verdict += f", {len(entry.results)} of {entry.seeds} seeds"
    return f"{ours} ({paper}, {_number(entry.difference, digits, '+')}{verdict})"


def _digits(entry: TableEntry) -> int:
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


def _notes(table: Table, rows: list[list[TableEntry]]) -> Iterable[str]:
    """Yield the table's footnotes, what is special in it, and its legend."""
    entries = [entry for row in rows for entry in row]
    yield from table.footnotes
    missing = sum(entry.status == "not run" for entry in entries)
    if missing:
        yield f"{missing} of {len(entries)} entries have not been run ({MISSING})."
    if others := list(dict.fromkeys(path for e in entries for path in e.measured.others)):
        more = f" and {len(others) - LISTED} more" if len(others) > LISTED else ""
        yield (
            f"Of other records, so not shown: {', '.join(others[:LISTED])}{more}. Delete them, and "
            "the workflow makes them again."
        )
    samplers = {e.number.sampler: e.results[0].sampler or {} for e in entries if e.results}
    starts = {name: sampler.get("start") for name, sampler in samplers.items()}
    if names := sorted(name for name, start in starts.items() if start == "gaussian"):
        yield f"Starts from the mean and covariance of the training images: {', '.join(names)}."
    yield from legend(entries)
    if any(entry.paper is not None and entry.status != "literature" for entry in entries):
        yield from _verdict_notes(table, rows)
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
        split = "training" if result.metric["reference_split"] == "test" else "test"
        count = f" ({result.floor_samples:,} images)" if result.floor_samples else ""
        note += f", the {split} split{count} {_significant(result.floor)}"
    if result.extractor_test_accuracy is not None:
        note += f"; the classifier's test accuracy is {result.extractor_test_accuracy:.3f}"
    return f"{note}."


def _significant(number: float) -> str:
    """Return a number with three significant digits: scales are of any size."""
    return f"{float(f'{number:.3g}'):,}".removesuffix(".0")


def legend(entries: list[TableEntry]) -> Iterable[str]:
    """Yield the scales of the metrics, and what ±, SD, min and the ranks mean."""
    for name, result in scales(entries).items():
        yield _scale_note(name, result)
    if any(entry.interval for entry in entries):
        yield (
            "± half of the 95 % interval, which covers other samples of the same weights, but "
            "neither training again nor other images of the reference."
        )
    if any(entry.deviation for entry in entries):
        yield "SD: the standard deviation over trainings; where it stands, ± covers training again."
    if any(entry.minimum is not None for entry in entries):
        yield "min: the smallest value of all seeds."
    if any(entry.rank and entry.rank.p_value is not None for entry in entries):
        yield (
            "★ the best of its column as measured. ★ and ≈ mark a set that contains the best with "
            "95 % (Bonferroni's correction for the column), as far as ± covers. Compared at equal "
            "numbers of samples, paired where both draw the same noise."
        )


def _verdict_notes(table: Table, rows: list[list[TableEntry]]) -> Iterable[str]:
    """Yield what the verdicts mean in this table, and where they do not tell two rows apart."""
    entries = [entry for row in rows for entry in row]
    yield "In brackets: the paper's value and the difference (ours minus the paper's)."
    if band := table.band:
        yield (
            f"✓ within {band.absolute:g} or {band.relative:.0%} of the paper's value, "
            f"whichever is wider (network evaluations: {band.relative:.0%}), with the whole "
            f"95 % interval; ✗ the whole interval outside; ? undecided. {band.reason}"
        )
    if any("for these weights" in entry.status for entry in entries):
        yield (
            "¹ For these weights: fewer than three trainings do not show how much another one "
            "changes, and the paper's number is of another one."
        )
    weights = [r.model.imported for entry in entries for r in entry.results if r.model]
    if files := {w.sha256: f"{w.file} (SHA-256 {w.sha256})" for w in weights if w}:
        yield f"² For imported weights, which were not trained here: {'; '.join(files.values())}."
    if alike := [pair for column in zip(*rows, strict=True) for pair in _alike(column)]:
        yield f"✓ for both, bands that overlap, and no difference left: {'; '.join(alike)}."


def _alike(column: Iterable[TableEntry]) -> Iterable[str]:
    """Yield pairs with neighboring numbers of the paper that their verdicts do not tell apart."""
    agreeing = [e for e in column if MARKS.get(e.status, "").startswith(" ✓") and e.show == "value"]
    for a, b in pairwise(sorted(agreeing, key=lambda entry: entry.paper)):
        if 0 < b.paper - a.paper <= a.width + b.width and a.number[3:] == b.number[3:]:
            p_value = a.measured.difference(b.measured).p_value
            if p_value >= 1 - CONFIDENCE:
                names = " and ".join(" ".join(entry.row.label) for entry in (a, b))
                yield f"{names} in {a.column} (p = {p_value:.1g})"


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
            f" {_count(trainings)} can be decided by more trainings only: there are fewer than "
            "three, or no number of samples is enough."
        )
    yield (
        f"{note} Decide before how often to look: a value at the end of its band gets a wrong ✓ in "
        "2.5 % of single looks, but in 10 % of ten looks while samples are added."
    )


def _count(entries: int) -> str:
    return "1 entry" if entries == 1 else f"{entries} entries"
