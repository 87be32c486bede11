"""Make the texts of a table, and format them as Markdown, LaTeX and HTML."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import NamedTuple, cast

from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.filters import do_mark_safe
from tabulate import tabulate

from psld.evaluation.results import NUMBER_KINDS, CellResult
from psld.grid.cells import Grid
from psld.grid.entries import LEAST_TRAININGS, STATUSES, Entry, Status
from psld.grid.rows import ANSWERS, Comparison, as_csv, ranked, read_claims, read_table, read_tables
from psld.grid.tables import Table
from psld.metrics.estimate import CONFIDENCE, Difference, holm
from psld.sampling.settings import gaussians
from psld.utils import VERSION
from psld.utils.environment import git_revision
from psld.utils.errors import listed, one_line
from psld.utils.files import write_text

MISSING = "–"
PHONE_WIDTH = 45  # in letters of the size that style.css sets for tables
COLUMN_SPACE = 2  # between columns, in letters
LISTED = 5
"""The largest number of names that a note lists."""
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
OVERLAPS = " ≠"
"""The mark of an entry that differs from the best entry although their intervals overlap."""
WORDS: dict[str | None, tuple[str, str]] = {
    "smaller": ("nearest to the data", "nearer to the data"),
    "larger": ("best", "better"),
    "floor": ("nearest to real images", "nearer to real images"),
}
"""Keyed by the direction in which the metric improves."""
STARTS = {"prior": "from the prior", "gaussian": "from one Gaussian", "mixture": "from the mixture"}
PIXELS = (
    "Pixels favor the initial distribution (start), which was fitted to them; look at the "
    "pictures, or use FID."
)
NAMED = 2
"""The largest number of entries that a sentence names. More entries are only counted."""


@dataclass(frozen=True)
class TableText:
    title: str
    columns: list[str]
    lines: list[list[str]]
    headings: int = 1
    """The number of columns that are row headings."""
    answer: str = ""
    caption: str = ""
    marks: list[list[Status]] = field(default_factory=list)
    """The status of each entry, row by row."""
    notes: list[str] = field(default_factory=list)
    alone: list[str] = field(default_factory=list)
    """Additional notes for a table that is written to a separate file. The results page prints
    these notes once, for all tables."""

    @property
    def is_wide(self) -> bool:
        """Return whether the table is wider than a phone even if all lines break where possible."""
        width = 0.0
        for index, (column, *cells) in enumerate(zip(self.columns, *self.lines, strict=True)):
            parts = column.split()  # In a table with marks, a bracket is on a separate line.
            for cell in cells:
                separator = None if index < self.headings else " (" if self.marks else "\n"
                parts += cell.split(separator)
            width += max(map(_letters, parts)) + COLUMN_SPACE
        return width > PHONE_WIDTH


def _letters(text: str) -> float:
    """Return the width of a text in letters; spaces and points count as half a letter."""
    return len(text) - (text.count(" ") + text.count(".")) / 2


def table_text(table: Table, rows: list[list[Entry]]) -> TableText:
    entries = [entry for row in rows for entry in row]
    has_seeds = any(len(entry.cells) > 1 for entry in entries)
    headings = [*table.headings, *(["seeds"] if has_seeds else [])]
    return TableText(
        title=table.title,
        answer=answer(table, rows).text,
        caption=table.caption,
        headings=len(headings),
        columns=[*headings, *(column.label for column in table.columns)],
        lines=[
            [*row[0].row.label, *([_seeds(row)] if has_seeds else []), *map(_short, row)]
            for row in rows
        ],
        marks=[[entry.status for entry in row] for row in rows],
        notes=list(notes(table, rows)),
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


def limit_text(table: Table, rows: list[list[Entry]]) -> TableText | None:
    """Return the table of distances for infinitely many samples; None without such distances."""
    columns = [column for column in zip(*rows, strict=True) if any(e.extrapolated for e in column)]
    if not columns:
        return None

    def text(entry: Entry) -> str:
        if (limit := entry.extrapolated) is None:
            return MISSING
        value, low, high = (number_text(number, digits_of(entry)) for number in limit)
        return f"{value} ({low} to {high})"

    return TableText(
        title=f"{table.title}: n → ∞",
        caption="Fréchet distances, extrapolated to infinitely many samples, with 95 % intervals.",
        headings=len(table.headings),
        columns=[*table.headings, *(column[0].column for column in columns)],
        lines=[[*row[0].row.label, *map(text, row)] for row in zip(*columns, strict=True)],
    )


def claims_text(answered: Iterable[Comparison]) -> TableText:
    comparisons = list(answered)
    counts = Counter(each.answer for each in comparisons)
    return TableText(
        title="Claims",
        caption=(
            "A claim states which of two numbers is smaller. The difference is this number minus "
            "the other number, or minus a multiple of the other number if the claim has a factor. "
            "The difference of the paper's numbers stands next to it."
        ),
        columns=["claim", "where", "difference", "paper's", "p", "samples", "trainings", "answer"],
        headings=2,
        lines=[_claim_line(each) for each in comparisons],
        notes=[
            f"{len(comparisons)} comparisons: "
            f"{', '.join(f'{counts[answer]} {answer}' for answer in ANSWERS if counts[answer])}.",
            "± is half of the 95 % interval of the difference, paired where both numbers draw the "
            "same noise. Agrees, contradicts: p < 0.05, with Holm's correction for the comparisons "
            "of the claim. Differences of counts have no ±.",
            "For these weights: one side has fewer than three trainings, so the answer covers "
            "other samples of the same weights, but not training again.",
        ],
    )


def _claim_line(answered: Comparison) -> list[str]:
    smaller, difference, answer = answered.smaller, answered.difference, answered.answer
    error = difference.interval.half_width if difference else 0.0
    digits = decimals(NUMBER_KINDS[smaller.show].decimals, error)
    shown = [MISSING, number_text(answered.paper, digits, "+"), MISSING]
    if difference is not None:
        shown[0] = number_text(difference.value, digits, "+")
        if difference.errors:
            shown[0] += f" ± {number_text(error, digits)}"
            shown[2] = f"{answered.p_value:.2g}"
        if answer != "cannot tell" and answered.trainings < LEAST_TRAININGS:
            answer += " for these weights"
    samples, trainings = f"{smaller.samples:,}", str(answered.trainings or MISSING)
    return [answered.claim, answered.label or MISSING, *shown, samples, trainings, answer]


def _seeds(entries: list[Entry]) -> str:
    """Return how many seeds of the entries have been run, such as `1 of 3`."""
    counts = {(len(entry.results), len(entry.cells)) for entry in entries if entry.cells}
    texts = [f"{n}" if n == asked else f"{n} of {asked}" for n, asked in sorted(counts)]
    return ", ".join(texts) or MISSING


def _short(entry: Entry) -> str:
    """Return the text of an entry: its value and rank, and a comparison with the paper.

    The comparison, in brackets, is the paper's value, the difference from it, and the verdict.
    """
    digits = digits_of(entry)
    paper = number_text(entry.paper, digits)
    if entry.status == "literature":
        return paper if entry.paper is None else f"{paper}†"
    ours = our_text(entry)
    if entry.rank:
        ours += RANKS.get(entry.rank.name, OVERLAPS * entry.rank.overlaps)
    if entry.paper is None:
        return ours
    if entry.difference is None:
        return f"{ours} ({paper})"
    verdict = MARKS.get(entry.status, "")
    if verdict and entry.missing_seeds:
        verdict += f", {len(entry.results)} of {len(entry.cells)} seeds"
    return f"{ours} ({paper}, {number_text(entry.difference, digits, '+')}{verdict})"


# -- numbers ---------------------------------------------------------------------------------------


def our_text(entry: Entry) -> str:
    """Return the value of an entry with its interval, standard deviation and minimum."""
    digits = digits_of(entry)
    text = number_text(entry.value, digits)
    if entry.interval and entry.interval.half_width:
        text += f" ± {number_text(entry.interval.half_width, digits)}"
    if entry.deviation:
        text += f", SD {number_text(entry.deviation, digits)}"
    if entry.minimum is not None:
        text += f", min {number_text(entry.minimum, digits)}"
    return text


def digits_of(entry: Entry) -> int:
    kind, error = NUMBER_KINDS[entry.show], entry.interval and entry.interval.half_width
    if not kind.from_features or not error or error < 1e-6 * abs(fmean(entry.values)):
        return kind.decimals
    return decimals(kind.decimals, error)


def decimals(fewest: int, error: float) -> int:
    """Return the smallest number of decimals, at least `fewest`, that shows `error` as nonzero."""
    return max(fewest, -math.floor(math.log10(error))) if error else fewest


def number_text(number: float | None, digits: int, sign: str = "") -> str:
    return MISSING if number is None else f"{number:{sign}.{digits}f}"


# -- notes -----------------------------------------------------------------------------------------


def notes(table: Table, rows: list[list[Entry]]) -> Iterable[str]:
    entries = [entry for row in rows for entry in row]
    yield from table.footnotes
    counts = Counter(entry.status for entry in entries)
    if not_run := sum(entry.status == "not run" and not entry.void for entry in entries):
        yield f"{not_run} of {len(entries)} entries have not been run ({MISSING})."
    for reason in dict.fromkeys(reason for entry in entries for reason in entry.void):
        yield f"No value ({MISSING}) of {reason}."
    if others := list(dict.fromkeys(path for entry in entries for path in entry.others)):
        yield (
            "Not shown, because the grid has changed or files were moved: "
            f"{listed(others, LISTED)}. Delete them and run the workflow again."
        )
    yield from made_by_other_code(result for entry in entries for result in entry.results)
    if worse := [entry.label for entry in entries if entry.is_worse_than_noise]:
        yield (
            "Farther from the images than pure noise, because of too few training or sampling "
            f"steps: {listed(worse, LISTED, '; ')}."
        )
    for start in ("gaussian", "mixture"):
        these = [e for e in entries if e.results and e.results[0].sampler.get("start") == start]
        if names := sorted({f"`{entry.shown.sampler}`" for entry in these}):
            law = _distribution(start, these)
            yield (
                f"The initial distribution (start) of {', '.join(names)} is {law}, fitted to the "
                "training images."
            )
    if band := table.band:
        yield (
            f"Band (✓ ✗): {band.absolute:g} or {band.relative:.0%} of the paper's value, whichever "
            f"is wider (network evaluations: {band.relative:.0%}). {band.reason}"
        )
    models = [r.model for entry in entries for r in entry.results]
    weights = [model.imported for model in models]
    if files := {w.sha256: f"{w.file} (SHA-256 {w.sha256})" for w in weights if w}:
        yield f"² Imported weights, not trained here: {'; '.join(files.values())}."
    if sources := {m.name: f"{m.name} from {m.init['model']}" for m in models if m.init}:
        names = listed([*sources.values()], LISTED)
        yield f"Trained from the weights of other models: {names}."
    if saved := sorted({model.name for model in models if model.saved}):
        yield f"Saved from Python (psld.save), not trained by a command: {listed(saved, LISTED)}."
    if counts["undecided"]:
        note = f"{counts['undecided']} of {len(entries)} entries are undecided (?)"
        needs = Counter(entry.needs for entry in entries)
        if most := max(entry.more_samples or 0 for entry in entries):
            note += f"; up to {most:,} more samples (further seeds) can decide {needs['samples']}"
        if needs["trainings"]:
            note += f"; only more trainings can decide {needs['trainings']}"
        yield f"{note}."


def made_by_other_code(results: Iterable[CellResult]) -> Iterable[str]:
    """Yield how many models, guides and cells were made by another revision of psld."""
    makers: dict[str, dict[str | None, bool]] = {"model": {}, "guide": {}, "cell": {}}
    here = git_revision()
    for result in results:
        is_older = result.versions.get("psld", VERSION) != VERSION or _differ(
            result.git_revision, here
        )
        makers["cell"][result.kept_sha256] = is_older
        for what, weights in (("model", result.model), ("guide", result.guide)):
            if weights:
                makers[what][weights.weights_sha256] = _differ(weights.git_revision, here)
    counts = []
    for what, others in makers.items():
        if count := sum(others.values()):
            counts.append(f"{count} {what}{'s' * (count > 1)}")
    if counts:
        yield f"Made by another revision of psld than the current revision: {', '.join(counts)}."


def _differ(revision: str | None, here: str | None) -> bool:
    return None not in (revision, here) and revision != here


def _distribution(start: str, entries: Iterable[Entry]) -> str:
    if start == "gaussian":
        return "one Gaussian"
    results = [result for entry in entries for result in entry.results]
    if any("label" in result.sampler["guidance"] for result in results):
        return "a mixture of Gaussians"  # each class has its own number of Gaussians
    number = gaussians({cast(int, result.gaussians) for result in results})
    return number if number == "one Gaussian" else f"a mixture of {number}"


def scales(entries: list[Entry]) -> Iterable[str]:
    """Yield a note on the scale of each metric on each dataset."""
    found = {}
    for entry in (entry for entry in entries if entry.results):
        result = entry.results[0]
        kind = result.metric["name"], result.model.settings["dataset"]["name"]
        found[kind] = result, entry.measurement.metric.better
    several = len({dataset for _, dataset in found}) > 1
    for (metric, dataset), (result, better) in found.items():
        name = f"{metric} on {dataset}" if several else metric
        note = f"Scale of {name}: standard normal noise has {_significant(result.noise)}"
        if better == "floor" and result.floor is not None:
            note += f", the {result.held_out} {_significant(result.floor)}, which is best"
        if result.extractor_test_accuracy is not None:
            note += f"; the classifier's test accuracy is {result.extractor_test_accuracy:.3f}"
        yield f"{note}."


def _significant(number: float) -> str:
    return f"{float(f'{number:.3g}'):,}".removesuffix(".0")


# -- sentences -------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """The findings of a table, in sentences."""

    findings: list[str]
    """A sentence for each comparison."""
    limits: list[str]
    """Sentences about the limits of the findings, such as the number of trainings."""

    @property
    def text(self) -> str:
        return " ".join([*self.findings, *self.limits])

    @property
    def headline(self) -> str:
        return " ".join([*self.findings[:1], *self.limits])


def answer(table: Table, rows: list[list[Entry]]) -> Answer:
    """Return what a table says about its comparisons or, without comparisons, its best entry.

    The best entry is chosen for the first metric and dataset only. Entries without results are
    ignored.
    """
    shown = (
        e for row in rows for e in row if e.by_cell and e.show == "value" and e.loss is not None
    )
    entries = [*{entry.number: entry for entry in shown}.values()]
    if table.compare:
        compared = [
            {name: e for name, part in each.entries.items() for e in entries if part.fits(e.shown)}
            for each in table.compare
        ]
        pairs = sum(math.comb(len(contrast.entries), 2) for contrast in table.compare)
        findings = _contrasts([contrast.where for contrast in table.compare], compared, pairs)
        used = [entry for sides in compared for entry in sides.values()]
    else:
        used = [entry for entry in ranked(entries) if entry.rank]
        used = [entry for entry in used if entry.axis == used[0].axis]
        findings = [_the_best(used)] if used else []
    limits = [_trainings(used)] if findings else []
    pixels = (e for e in entries if e.measurement.metric.extractor.kind == "pixels")
    if findings and any(entry.cell.sampler.settings.starts_from_data for entry in pixels):
        limits.append(PIXELS)
    return Answer(findings, limits)


def _trainings(entries: Iterable[Entry]) -> str:
    counts = [cast(int, entry.trainings) for entry in entries]
    fewest, most = min(counts), max(counts)
    times = f"{fewest} to {most}" if fewest < most else str(most)
    trainings = "one training" if most == 1 else f"{times} trainings"
    return f"The numbers are from {trainings} of each model."


def _contrasts(openings: list[str], compared: list[dict[str, Entry]], asked: int) -> list[str]:
    """Return a sentence for each contrast, with Holm's correction for all `asked` pairs.

    A pair without results counts as a pair without a significant difference.
    """
    pairs = [
        (index, *sorted(names, key=lambda name: cast(float, sides[name].loss)))
        for index, sides in enumerate(compared)
        for names in combinations(sides, 2)
    ]
    found = [compared[i][worse].worse_than(compared[i][better]) for i, better, worse in pairs]
    missing = [1.0] * (asked - len(found))
    p_values = holm([difference.p_value for difference in found] + missing)[: len(found)]
    told = [
        {
            (a, b): d
            for (i, a, b), d, p in zip(pairs, found, p_values, strict=True)
            if i == index and p < 1 - CONFIDENCE
        }
        for index in range(len(compared))
    ]
    texts = zip(openings, compared, told, strict=True)
    return [_contrast(*each) for each in texts if len(each[1]) > 1]


def _contrast(
    opening: str, sides: dict[str, Entry], told: dict[tuple[str, str], Difference]
) -> str:
    """Return the sentence of a contrast.

    `told`: the significant differences, keyed by the names of the better and the worse side.
    """
    word = WORDS[next(iter(sides.values())).measurement.metric.better][1]
    values = {name: f" ({our_text(entry)})" for name, entry in sides.items()}

    def named(names: Iterable[str], of: str = "") -> str:
        """List the names, each with its value where it is first mentioned."""
        *most, final = [f"{of}{name}{values.pop(name, '')}" for name in names]
        return " and ".join(filter(None, [", ".join(most), final]))

    parts = []
    for better in sorted(sides, key=lambda name: cast(float, sides[name].loss)):
        if worse := [name for name in sides if (better, name) in told]:
            part = f"images of {named([better])} are {word} than {named(worse, 'images of ')}"
            if len(sides) == 2:
                [difference] = told.values()
                value, error = abs(difference.value), difference.interval.half_width
                digits = decimals(2, error if error > 1e-6 * value else 0.0)
                part += f", by {number_text(value, digits)} ± {number_text(error, digits)}"
            parts.append(part)
    alike = [pair for pair in combinations(sides, 2) if not {pair, pair[::-1]} & told.keys()]
    if alike:
        shown = [sides] if not told else alike
        parts += [f"no difference between {named(names)} can be told" for names in shown]
    text = "; ".join(parts)
    return f"{opening} {text}." if opening else f"{text[0].upper()}{text[1:]}."


def _the_best(entries: Sequence[Entry]) -> str:
    """Return a sentence about the best ranked entry, and about entries that may be as good."""
    nearest, nearer = WORDS[entries[0].measurement.metric.better]
    best = next(entry for entry in entries if entry.rank and entry.rank.name == "best")
    untold = [entry for entry in entries if entry.rank and entry.rank.name == "perhaps best"]
    if not untold:
        return f"Images of {_named(best)} are {nearer} than images of all other measured entries."
    others = " and ".join(map(_named, untold))
    if len(untold) > NAMED:
        others = f"{len(untold)} other entries"
    text = f"Images of {_named(best)} are {nearest} as measured"
    return f"{text}; no difference from {others} can be told."


def _named(entry: Entry) -> str:
    """Return the labels and the value of an entry.

    The initial distribution (`start`) is added, unless a label names it.
    """
    labels = [*entry.row.label, entry.column]
    start = entry.results[0].sampler.get("start", "prior")
    if not any(start in label for label in labels):
        labels.append(STARTS[start])
    return f"{', '.join(labels)} ({our_text(entry)})"


# -- formats ---------------------------------------------------------------------------------------

TEMPLATES = Environment(
    loader=PackageLoader("psld.report"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
    finalize=lambda value: value.replace("`", "") if type(value) is str else value,
)
"""The templates of HTML pages. The filter `code` formats names in backticks as code. Where the
filter is not used, as in attributes, the backticks are removed."""
TEMPLATES.filters["code"] = lambda text: do_mark_safe(
    re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
)


def write_table(grid: Grid, name: str, output: str) -> None:
    """Write a table of a grid as OUTPUT.csv, OUTPUT.md, OUTPUT.tex and OUTPUT.html."""
    table, rows = grid.file.tables[name], read_table(grid, name)
    text = table_text(table, rows)
    write_text(f"{output}.csv", as_csv(table, rows))
    write_text(f"{output}.md", markdown(text))
    write_text(f"{output}.tex", latex(text))
    write_text(f"{output}.html", TEMPLATES.get_template("table.html").render(text=text))


def answers(grid: Grid, tables: dict[str, list[list[Entry]]]) -> dict[str, str]:
    """Return the different answers of a grid's tables.

    Each answer has the name of the first table that gives this answer.
    """
    found: dict[str, str] = {}
    for name, rows in tables.items():
        found.setdefault(answer(grid.file.tables[name], rows).text, name)
    return {text: name for text, name in found.items() if text}


def print_tables(grid: Grid, root: Path = Path(), with_summary: bool = True) -> None:
    """Print the tables, the claims and the summary of a grid, from the results below `root`."""
    tables = read_tables(grid, root)
    texts = [table_text(grid.file.tables[name], rows) for name, rows in tables.items()]
    for text in texts:
        print(markdown(replace(text, alone=[])))
    print("\n\n".join(dict.fromkeys(note for text in texts for note in text.alone)) + "\n")
    if grid.file.claims:
        print(markdown(claims_text(read_claims(grid, root))))
    if with_summary:
        print(markdown(summary(grid, tables)))


def markdown(text: TableText) -> str:
    above = [text.title, text.answer, text.caption]
    title, answer, caption, *notes = map(_plain, [*above, *text.notes, *text.alone])
    sides = ["left"] * text.headings + ["right"] * (len(text.columns) - text.headings)
    lines = [text.columns, *text.lines]
    head, *rows = [[_plain(cell).replace("|", r"\|") for cell in line] for line in lines]
    table = tabulate(rows, head, tablefmt="pipe", colalign=sides, disable_numparse=True)
    return "\n\n".join(filter(None, [f"### {title}", answer, caption, table, *notes])) + "\n"


def _plain(text: str) -> str:
    """Return a text as one line of Markdown in which HTML elements and links are escaped."""
    return re.sub(r"\\*(<(?=[A-Za-z/!?])|](?=[(\[:]))", r"\\\1", one_line(text))


def latex(text: TableText) -> str:
    """Return a booktabs table, with the notes in its caption."""
    above = [f"{text.title}.", text.answer, text.caption]
    caption = " ".join(filter(None, [*above, *text.notes, *text.alone]))
    sides = "l" * text.headings + "r" * (len(text.columns) - text.headings)
    rows = [text.columns, *text.lines]
    head, *body = (f"{' & '.join(map(_escape, row))} \\\\" for row in rows)
    lines = [
        r"% Needs \usepackage{amssymb, booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escape(caption)}}}",
        rf"\begin{{tabular}}{{{sides}}}",
        *[r"\toprule", head, r"\midrule", *body, r"\bottomrule"],
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


SYMBOLS = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{
        "[": "{[}",
        "*": "{*}",
    },  # At the start of a row, LaTeX would read them as options of the previous command.
    **{"<": "$<$", ">": "$>$", "−": "$-$", "×": r"$\times$", "±": r"$\pm$", "√": r"$\surd$"},
    **{"★": r"$\star$", "≈": r"$\approx$", "≠": r"$\neq$", "→": r"$\to$", "∞": r"$\infty$"},
    **{"Γ": r"$\Gamma$", "ν": r"$\nu$", "κ": r"$\kappa$"},
    **{"⁻": "$^{-}$", "¹": "$^{1}$", "²": "$^{2}$"},
    **{"✓": r"$\checkmark$", "✗": r"\textbf{x}", "†": r"$\dagger$"},
}
"""Commands for LaTeX's special characters, and for characters that LaTeX's usual fonts lack."""


def _escape(text: str) -> str:
    escaped = " ".join(text.split()).translate(str.maketrans(SYMBOLS))
    return re.sub(r"`([^`]+)`", r"\\texttt{\1}", escaped)
