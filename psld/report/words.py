"""Our numbers as texts, and the sentence at the head of a table."""

import math
from collections.abc import Iterable, Sequence

from psld.grid.entries import Entry
from psld.grid.rows import ranked
from psld.metrics.estimate import CONFIDENCE
from psld.metrics.results import NUMBER_KINDS
from psld.report.notes import MISSING

WORDS = {
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
    if not kind.from_features or not error or error < 1e-6 * abs(entry.value):
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

    All entries are compared with the best of the table as those of a column are for the marks.
    """
    distinct = {e.number: e for e in entries if e.by_cell and e.show == "value"}
    compared = [entry for entry in ranked(list(distinct.values())) if entry.rank]
    if not compared:
        return ""
    alike = [entry for entry in compared if entry.axis == compared[0].axis]
    best = next(entry for entry in alike if entry.rank.name == "best")
    text = _fewer_evaluations(best, alike) or _the_best(best, alike)
    if (floor := best.results[0].floor) is not None:
        count, split = best.results[0].floor_samples, best.results[0].held_out
        images = f"{count:,} real images" if count else "real images"
        text += f"; {images} of the {split} have {number_text(floor, decimals(2, abs(floor)))}"
    return f"{text}."


def _fewer_evaluations(best: Entry, alike: Sequence[Entry]) -> str:
    """Say that few evaluations are better than more of another sampler; empty if that is not so.

    The network is that of the best entry. Of each other sampler, the most evaluations count.
    """
    _, better, _ = WORDS[best.measurement.metric.better]
    name = best.cell.model.name
    same = [entry for entry in alike if not entry.nfe or entry.cell.model.name == name]
    same.sort(key=lambda entry: entry.nfe)
    most = {entry.nfe and entry.shown.sampler: entry for entry in same}  # 0: the start alone
    for few in (entry for entry in same if entry.nfe):
        places: dict[int, list[Entry]] = {1: [], 0: [], -1: []}
        for sampler, other in most.items():
            if sampler != few.shown.sampler:
                places[_sign(few, other, len(alike) * len(most))].append(other)
        if any(other.nfe > few.nfe for other in places[1]):
            break
    else:
        return ""
    one = few.nfe == 1
    text = (
        f"{few.cell.in_words[0]}: {few.nfe:.0f} evaluation{'' if one else 's'} of {_drawn(few)} "
        f"{'is' if one else 'are'} {better} than {_listed(places[1])}, with the same network"
    )
    if places[0]:
        text += f"; {_listed(places[0])} cannot be told from {'it' if one else 'them'}"
    if places[-1]:
        text += f"; {better} still: {_listed(places[-1])}"
    return text


def _sign(entry: Entry, other: Entry, comparisons: int) -> int:
    """Return 1 if an entry is better than another, −1 if it is worse, 0 if that cannot be told."""
    difference = entry.minus(other)
    if comparisons * difference.p_value >= 1 - CONFIDENCE:
        return 0
    return 1 if (difference.value < 0) == (entry.measurement.metric.better == "smaller") else -1


def _listed(entries: Iterable[Entry]) -> str:
    *others, last = (
        f"{entry.nfe:.0f} of {_drawn(entry)}"
        if entry.nfe
        else f"the start alone ({our_text(entry)})"
        for entry in entries
    )
    return " and ".join(filter(None, [", ".join(others), last]))


def _drawn(entry: Entry) -> str:
    """Return the sampler of an entry, its start if that is of images, and the value."""
    label = entry.cell.options.label(entry.shown.sampler)
    start = STARTS.get(entry.results[0].sampler.get("start"), "")
    return f"{label}{start * (start not in label)} ({our_text(entry)})"


def _the_best(best: Entry, alike: Sequence[Entry]) -> str:
    nearest, _, farther = WORDS[best.measurement.metric.better]
    columns = len({entry.column for entry in alike})

    def named(entry: Entry) -> str:
        place = [*entry.row.label, entry.column] if columns > 1 else entry.row.label
        return f"{', '.join(place)} ({our_text(entry)})"

    others = len(alike) - 1
    untold = [entry for entry in alike if entry.rank.name == "perhaps best"]
    if not untold:
        rest = f"the {others} others are {farther}" if others > 1 else f"the other is {farther}"
    else:
        names = " and ".join(map(named, untold))
        rest = names if len(untold) <= NAMED else f"{len(untold)} of the {others} others"
        rest += " cannot be told from it"
    return f"{nearest.capitalize()}, as measured: {named(best)}; {rest}"
