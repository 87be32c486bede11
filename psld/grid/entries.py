"""The entries of a table: our numbers with their intervals, the paper's, and verdicts.

And the claims of a grid: comparisons that the paper makes, answered by our numbers.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal, NamedTuple, get_args

from psld.grid.cells import Grid
from psld.grid.seeds import LEAST_TRAININGS, Scope, SeedResults, read_results
from psld.grid.tables import Band, Comparison, Number, Place
from psld.metrics.comparison import Difference, holm, place_in_band, samples_to_decide
from psld.metrics.estimate import CONFIDENCE, Interval
from psld.metrics.results import NUMBER_KINDS, CellResult, Show

Status = Literal[
    *("reproduced", "off", "agrees for these weights", "differs for these weights"),
    *("agrees for imported weights", "differs for imported weights"),
    *("undecided", "measured", "not run", "literature"),
]

STATUSES: tuple[Status, ...] = get_args(Status)

VERDICTS: dict[Scope, tuple[Status, Status]] = {
    "training": ("reproduced", "off"),
    "imported weights": ("agrees for imported weights", "differs for imported weights"),
    "these weights": ("agrees for these weights", "differs for these weights"),
}
"""If the whole interval is inside the band, and if it is outside."""


class Rank(NamedTuple):
    """The place of an entry among the comparable entries of its column."""

    name: Literal["best", "perhaps best", "not best"]
    """The first two mark a set that contains the best with 95 %."""
    p_value: float | None = None
    """Of the difference from the best, after Bonferroni's correction."""
    paired: bool | None = None
    """True if the difference is paired by samples."""


@dataclass(frozen=True)
class TableEntry(Place):
    """One entry of a table: the measured value and the paper's value, if they exist."""

    band: Band | None
    seeds: int
    """The number of results that the grid asks for."""
    measured: SeedResults
    rank: Rank | None = None

    @property
    def results(self) -> tuple[CellResult, ...]:
        """The results so far: none for a literature row or a cell that has not been run."""
        return self.measured.results

    @property
    def missing_seeds(self) -> int:
        """The results that the grid asks for and that are not in our number."""
        return self.seeds - len(self.results)

    @property
    def samples(self) -> int | None:
        """The samples of each seed."""
        return self.number and self.number.samples

    @property
    def value(self) -> float | None:
        """Our number, the mean over seeds."""
        return fmean(self.measured.values(self.show)) if self.results else None

    @property
    def trainings(self) -> int | None:
        """The number of trainings behind our number."""
        return len(self.measured.by_training(self.show)) or None

    @property
    def deviation(self) -> float | None:
        """The standard deviation over trainings."""
        values = self.measured.by_training(self.show).values()
        return stdev(values) if len(values) > 1 else None

    @property
    def minimum(self) -> float | None:
        """The smallest number of several seeds."""
        values = self.measured.values(self.show)
        return min(values) if len(values) > 1 else None

    @property
    def interval(self) -> Interval | None:
        return self.measured.interval(self.show)

    @property
    def extrapolated(self) -> Interval | None:
        """The Fréchet distance of infinitely many samples, if there are enough to say."""
        return self.measured.extrapolated if self.show == "value" else None

    @property
    def nfe(self) -> float | None:
        """Network evaluations per image, the mean over seeds."""
        return fmean(result.nfe for result in self.results) if self.results else None

    @property
    def sampling_seconds(self) -> float | None:
        """The seconds of all shards of all seeds."""
        return sum(r.sampling_seconds for r in self.results) if self.results else None

    @property
    def sampling_device(self) -> str | None:
        return ", ".join(dict.fromkeys(r.sampling_device for r in self.results)) or None

    @property
    def difference(self) -> float | None:
        """The measured value minus the paper's."""
        return None if self.value is None or self.paper is None else self.value - self.paper

    @property
    def width(self) -> float | None:
        """The largest difference that counts as reproduced.

        None for the evaluations of a sampler with fixed steps: they are a setting, not a result.
        """
        if self.band is None or self.paper is None:
            return None
        cost = not NUMBER_KINDS[self.show].from_features
        if cost and self.results and "steps" in self.results[0].sampler:
            return None
        return self.band.width(self.paper, self.show)

    @property
    def _judged(self) -> tuple[Interval, float, float] | None:
        """Our number with its interval, and the ends of the band; None without one of these."""
        if self.value is None or self.width is None:
            return None
        interval = self.interval or Interval(self.value, self.value, self.value)
        return interval, self.paper - self.width, self.paper + self.width

    @property
    def status(self) -> Status:
        """The verdict: reproduced if the whole interval is in the band, off if none of it is.

        With fewer than three trainings, and with imported ones, it is of the weights alone.
        `measured` if there is nothing to compare with.
        """
        if self.row.literature:
            return "literature"
        if self.value is None:
            return "not run"
        if self._judged is None:
            return "measured"
        inside, outside = VERDICTS[self.measured.scope]
        return {"inside": inside, "outside": outside}.get(place_in_band(*self._judged), "undecided")

    @property
    def needs(self) -> Literal["samples", "trainings"] | None:
        """The remedy for an undecided entry; None if it is decided, or if there is none.

        Below three trainings it is trainings: more samples would decide for these weights alone.
        From there on it is samples, unless no number of them is enough. An inpainted cell has no
        more of them: its images are those of a split.
        """
        if self.status != "undecided":
            return None
        if self.measured.scope == "these weights":
            return "trainings"
        if not self.measured.inpainted and self._samples_to_decide:
            return "samples"
        return "trainings" if self.measured.trained(self.show) else None

    @property
    def more_samples(self) -> int | None:
        """The samples that would decide an undecided entry.

        0 if it is decided. None if nothing is compared, if no number is enough, or if it needs
        more trainings.
        """
        if self._judged is None:
            return None
        if self.status != "undecided":
            return 0
        return self._samples_to_decide if self.needs == "samples" else None

    @property
    def _samples_to_decide(self) -> int | None:
        interval, low, high = self._judged
        trained = self.measured.trained(self.show)
        fixed = trained.interval.half_width if trained else 0.0
        return samples_to_decide(interval, self.samples * len(self.results), low, high, fixed)


def read_table(grid: Grid, name: str, root: Path = Path()) -> list[list[TableEntry]]:
    """Return all entries of a table, row by row.

    Args:
        root: the folder of the project.
    """
    band = grid.file.tables[name].band

    def entry(place: Place) -> TableEntry:
        seeds = len(grid.replicates(place.number)) if place.number else 0
        measured = read_results(grid, place.number, root) if place.number else SeedResults()
        return TableEntry(**vars(place), band=band, seeds=seeds, measured=measured)

    columns = zip(*(map(entry, row) for row in grid.file.places[name]), strict=True)
    return [list(row) for row in zip(*(_ranked(grid, column) for column in columns), strict=True)]


def _ranked(grid: Grid, column: Iterable[TableEntry]) -> list[TableEntry]:
    """Compare entries of the same metric, dataset and number of samples with the best of them."""
    entries = list(column)
    groups: dict[tuple[str, str, int], list[int]] = {}
    for index, entry in enumerate(entries):
        if entry.results and entry.show == "value":
            number = entry.number
            key = (number.metric, grid.dataset_of(number), number.samples)
            groups.setdefault(key, []).append(index)
    for (metric, *_), group in groups.items():
        better = grid.metrics[metric].better
        if better and len(group) > 1:
            extreme = max if better == "larger" else min
            best = extreme((entries[index] for index in group), key=lambda entry: entry.value)
            for index in group:
                rank = _rank(entries[index], best, comparisons=len(group) - 1)
                entries[index] = replace(entries[index], rank=rank)
    return entries


def _rank(entry: TableEntry, best: TableEntry, comparisons: int) -> Rank:
    if entry.number == best.number:
        return Rank("best")
    difference = entry.measured.difference(best.measured)
    p_value = min(1.0, comparisons * difference.p_value)
    name = "not best" if p_value < 1 - CONFIDENCE else "perhaps best"
    return Rank(name, p_value, difference.paired)


def paper_values(grid: Grid) -> dict[Number, dict[Show, float]]:
    """Return the paper's numbers by kind: distance, network evaluations."""
    printed: dict[Number, dict[Show, float]] = {}
    for place in grid.file.places_in():
        if place.number and place.paper is not None:
            printed.setdefault(place.number, {})[place.show] = place.paper
    return printed


# -- claims ---------------------------------------------------------------------------------------

Answer = Literal["agrees", "contradicts", "cannot tell", "not run"]

ANSWERS: tuple[Answer, ...] = get_args(Answer)


@dataclass(frozen=True)
class AnsweredComparison:
    """One comparison of a claim, and our two numbers."""

    claim: str
    compared: Comparison
    smaller: SeedResults
    larger: SeedResults
    paper: float | None
    """The paper's difference, if it has both numbers."""
    p_value: float = 1.0
    """Of the difference, after Holm's correction for the comparisons of the claim."""

    @cached_property
    def difference(self) -> Difference | None:
        """The side that the paper calls smaller minus the other; None if one has not been run."""
        has_both = self.smaller.results and self.larger.results
        return self.smaller.difference(self.larger, self.compared.show) if has_both else None

    @property
    def trainings(self) -> int:
        """The number of trainings of the side with fewer."""
        return min(len(side.by_training()) for side in (self.smaller, self.larger))

    @property
    def covers_training(self) -> bool:
        """True if the answer is not of these weights alone: a claim is of methods."""
        return self.trainings >= LEAST_TRAININGS

    @property
    def answer(self) -> Answer:
        if self.difference is None:
            return "not run"
        if self.p_value >= 1 - CONFIDENCE:
            return "cannot tell"
        return "agrees" if self.difference.value < 0 else "contradicts"


def read_claims(grid: Grid, root: Path = Path()) -> Iterator[AnsweredComparison]:
    """Yield all comparisons of a grid's claims.

    Args:
        root: the folder of the project.
    """
    papers = paper_values(grid)
    for claim, comparisons in zip(grid.file.claims, grid.file.comparisons, strict=True):
        answered = []
        for compared in comparisons:
            numbers = compared.smaller, compared.larger
            printed = [papers.get(number, {}).get(compared.show) for number in numbers]
            sides = (read_results(grid, number, root) for number in numbers)
            paper = None if None in printed else printed[0] - printed[1]
            answered.append(AnsweredComparison(claim.claim, compared, *sides, paper))
        # What was not run counts as a comparison that finds nothing.
        p_values = holm([each.difference.p_value if each.difference else 1.0 for each in answered])
        for each, p_value in zip(answered, p_values, strict=True):
            yield replace(each, p_value=p_value)
