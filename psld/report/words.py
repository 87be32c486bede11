"""Our numbers as texts, and the sentence at the head of a table."""

import math
from collections.abc import Iterable, Sequence
from operator import attrgetter
from statistics import fmean

from psld.grid.entries import Entry
from psld.grid.rows import ranked
from psld.metrics.estimate import CONFIDENCE
from psld.metrics.results import NUMBER_KINDS
from psld.report.notes import MISSING

WORDS: dict[str | None, tuple[str, str, str]] = {
    "smaller": ("nearest to the data", "nearer to the data", "farther"),
    "larger": ("best", "better", "worse"),
}
"""By which values of a metric are better."""
STARTS = {"gaussian": " from one Gaussian", "mixture": " from the mixture"}
NAMED = 2
"""The most entries that are named, and not counted."""


def our_text(entry: Entry) -> str:
    """Return our value with its interval, its deviation and its minimum."""
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
    """Return the number of decimals: so many that the error is not printed as 0."""
    return max(fewest, -math.floor(math.log10(error))) if error else fewest


def number_text(number: float | None, digits: int, sign: str = "") -> str:
    return MISSING if number is None else f"{number:{sign}.{digits}f}"


# -- the sentence ----------------------------------------------------------------------------------


def sentence(entries: Iterable[Entry]) -> str:
    """Return what came out of a table, in its first metric and dataset; empty if nothing did.

    All entries are compared with the best of the table, as those of a column are for the marks.
    """
    distinct = {e.number: e for e in entries if e.by_cell and e.show == "value"}
    compared = [entry for entry in ranked(list(distinct.values())) if entry.rank]
    alike = [entry for entry in compared if entry.axis == compared[0].axis]
    if not alike:
        return ""
    best = next(entry for entry in alike if entry.rank and entry.rank.name == "best")
    text = _few_against_more(best, alike) or _the_best(best, alike)
    result = best.results[0]
    if result.floor is not None:
        images = f"{result.floor_samples:,} real images" if result.floor_samples else "real images"
        floor = number_text(result.floor, decimals(2, abs(result.floor)))
        text += f"; {images} of the {result.held_out} have {floor}"
    return f"{text}."


def _few_against_more(best: Entry, alike: Sequence[Entry]) -> str:
    """Say that few evaluations are better than more of another sampler; empty if that is not so.

    The network is that of the best entry. Of each other sampler, the most evaluations count.
    """
    smaller, name = best.measurement.metric.better == "smaller", best.cell.model.name
    same = [entry for entry in alike if entry.nfe == 0 or entry.cell.model.name == name]
    same.sort(key=attrgetter("nfe"))
    most = {entry.nfe and entry.shown.sampler: entry for entry in same}  # 0: the start alone
    for few in (entry for entry in same if entry.nfe):
        better, untold, worse = [], [], []
        for other in (e for sampler, e in most.items() if sampler != few.shown.sampler):
            difference = few.minus(other)
            told = len(alike) * len(most) * difference.p_value < 1 - CONFIDENCE
            found = (better if (difference.value < 0) == smaller else worse) if told else untold
            found.append(other)
        if any(other.nfe > few.nfe for other in better):
            break
    else:
        return ""
    word = WORDS[best.measurement.metric.better][1]
    than = f"{word} than {' and '.join(map(_drawn, better))}, with the same network"
    parts = [f"{few.cell.in_words[0]}: {_drawn(few, ' evaluations')} are {than}"]
    parts += [f"{_drawn(other)} cannot be told from them" for other in untold]
    return "; ".join([*parts, *(f"{word} still: {_drawn(other)}" for other in worse)])


def _drawn(entry: Entry, unit: str = "") -> str:
    """Return an entry's evaluations and sampler, with its start if that is of images, and value."""
    label = entry.cell.options.label(entry.shown.sampler)
    start = STARTS.get(entry.results[0].sampler.get("start", ""), "")
    whole = f"{entry.nfe:.0f}{unit} of {label}{start * (start not in label)}"
    return f"{whole if entry.nfe else 'the start alone'} ({our_text(entry)})"


def _the_best(best: Entry, alike: Sequence[Entry]) -> str:
    nearest, _, farther = WORDS[best.measurement.metric.better]
    untold = [entry for entry in alike if entry.rank and entry.rank.name == "perhaps best"]
    named = [f"{', '.join([*e.row.label, e.column])} ({our_text(e)})" for e in (best, *untold)]
    rest = " and ".join(named[1:]) if len(untold) <= NAMED else f"{len(untold)} other entries"
    rest = f"{rest} cannot be told from it" if untold else f"all others are {farther}"
    return f"{nearest.capitalize()}, as measured: {named[0]}; {rest}"
