"""The entries of a table: our numbers with their intervals, the paper's, and verdicts."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal, NamedTuple, get_args

from psld.grid.measured import Measured, read_measured
from psld.grid.places import Evaluation, Place
from psld.grid.resolved import Grid
from psld.grid.results import CellResult, LikelihoodResult, read_likelihood
from psld.grid.tables import Band, Row, Show
from psld.metrics.comparison import place_in_band, samples_to_decide
from psld.metrics.estimate import CONFIDENCE, Interval

Status = Literal["reproduced", "off", "undecided", "measured", "not run", "literature"]

STATUSES: tuple[Status, ...] = get_args(Status)


class Rank(NamedTuple):
    """The place of an entry among the comparable entries of its column."""

    name: Literal["best", "not worse", "worse"]
    """`not worse`: the difference from the best is not significant."""
    p_value: float | None = None
    """Of the difference from the best, after Bonferroni's correction."""
    paired: bool | None = None
    """True if the difference is paired by samples."""


@dataclass(frozen=True)
class TableEntry:
    """One entry of a table: the measured value and the paper's value, if they exist."""

    row: Row
    column: str
    show: Show
    evaluation: Evaluation | None
    paper: float | None
    band: Band | None
    seeds: int = 0
    """Number of results that the grid asks for."""
    measured: Measured = field(default_factory=Measured)
    rank: Rank | None = None
    likelihood: LikelihoodResult | None = None
    """The model's likelihood, if the entry shows it and it has been measured."""

    @property
    def results(self) -> tuple[CellResult, ...]:
        """The results so far: none for a literature row or a cell that has not been run."""
        return self.measured.results

    @property
    def samples(self) -> int | None:
        """The samples of each seed; of a likelihood the images, if it has been measured."""
        if self.evaluation:
            return self.evaluation.samples
        return self.likelihood and self.likelihood.measured

    @property
    def value(self) -> float | None:
        """Our number, the mean over seeds."""
        if self.likelihood:
            return self.likelihood.bits_per_dimension
        return fmean(self.measured.values(self.show)) if self.results else None

    @property
    def deviation(self) -> float | None:
        """The standard deviation over seeds."""
        values = self.measured.values(self.show)
        return stdev(values) if len(values) > 1 else None

    @property
    def minimum(self) -> float | None:
        """The smallest number of several seeds."""
        values = self.measured.values(self.show)
        return min(values) if len(values) > 1 else None

    @property
    def interval(self) -> Interval | None:
        if self.likelihood:
            return self.likelihood.interval
        return self.measured.interval(self.show)

    @property
    def extrapolated(self) -> float | None:
        """The Fréchet distance of infinitely many samples; other metrics have no bias of 1/n."""
        if not self.results or self.show != "value":
            return None
        frechet = self.results[0].metric["measure"]["kind"] == "frechet"
        return self.measured.drawn().extrapolated.value if frechet else None

    @property
    def difference(self) -> float | None:
        """The measured value minus the paper's."""
        return None if self.value is None or self.paper is None else self.value - self.paper

    @property
    def width(self) -> float | None:
        """The largest difference that counts as reproduced."""
        if self.band is None or self.paper is None:
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
    def needs(self) -> Literal["samples", "images", "trainings"] | None:
        """The remedy that would narrow the interval of an undecided entry; None if it is decided.

        More samples do not narrow the spread over trainings, if that is what the interval shows.
        """
        if self._judged is None or place_in_band(*self._judged) != "overlap":
            return None
        if self.likelihood:
            return "images"
        drawn, trained = self.measured.drawn(self.show), self.measured.trained(self.show)
        widths = [each.interval.half_width if each else 0.0 for each in (drawn, trained)]
        return "trainings" if widths[1] > widths[0] else "samples"

    @property
    def more_samples(self) -> int | None:
        """The samples that would decide an undecided entry, of a likelihood the images.

        0 if it is decided. None if nothing is compared, if no number is enough, or if it needs
        more trainings.
        """
        if self._judged is None or self.needs == "trainings":
            return None
        interval, low, high = self._judged
        return samples_to_decide(interval, self.samples * max(1, len(self.results)), low, high)

    @property
    def status(self) -> Status:
        """The verdict: reproduced if the whole interval is in the band, off if none of it is.

        `measured` if there is nothing to compare with.
        """
        if self.row.literature:
            return "literature"
        if self.value is None:
            return "not run"
        if self._judged is None:
            return "measured"
        verdicts: dict[str, Status] = {"inside": "reproduced", "outside": "off"}
        return verdicts.get(place_in_band(*self._judged), "undecided")


def read_table(grid: Grid, name: str, cells: Path) -> list[list[TableEntry]]:
    """All entries of a table, row by row.

    Args:
        cells: folder of the grid's metrics files, MODEL/SAMPLER.json and MODEL/likelihood.json.
    """
    band = grid.file.tables[name].band
    rows = [[_entry(grid, cells, place, band) for place in row] for row in grid.file.places[name]]
    ranked = [_ranked(grid, column) for column in zip(*rows, strict=True)]
    return [list(row) for row in zip(*ranked, strict=True)]


def _entry(grid: Grid, cells: Path, place: Place, band: Band | None) -> TableEntry:
    evaluation, model = place.evaluation, place.model
    return TableEntry(
        row=place.row,
        column=place.column.label,
        show=place.show,
        evaluation=evaluation,
        paper=place.paper,
        band=band,
        seeds=len(grid.file.replicates(evaluation)) if evaluation else 0,
        measured=read_measured(grid, cells, evaluation) if evaluation else Measured(),
        likelihood=read_likelihood(grid, cells, model) if model else None,
    )


def _ranked(grid: Grid, column: Iterable[TableEntry]) -> list[TableEntry]:
    """Compare entries of the same metric, dataset and number of samples with the best of them."""
    entries = list(column)
    groups: dict[tuple[str, str, int], list[int]] = {}
    for index, entry in enumerate(entries):
        if entry.results and entry.show == "value":
            e = entry.evaluation
            key = (e.metric, grid.models[e.model].dataset, e.samples)
            groups.setdefault(key, []).append(index)
    for (metric, *_), places in groups.items():
        better = grid.metric(metric).better
        if better and len(places) > 1:
            extreme = max if better == "larger" else min
            best = extreme(places, key=lambda place: entries[place].value)
            for place in places:
                rank = _rank(entries[place], entries[best], comparisons=len(places) - 1)
                entries[place] = replace(entries[place], rank=rank)
    return entries


def _rank(entry: TableEntry, best: TableEntry, comparisons: int) -> Rank:
    if entry.evaluation == best.evaluation:
        return Rank("best")
    difference = entry.measured.difference(best.measured)
    p_value = min(1.0, comparisons * difference.p_value)
    name = "worse" if p_value < 1 - CONFIDENCE else "not worse"
    return Rank(name, p_value, difference.paired)


def paper_values(grid: Grid) -> dict[Evaluation, dict[Show, float]]:
    """Return the paper's numbers for each evaluation, by kind: distance, network evaluations."""
    printed: dict[Evaluation, dict[Show, float]] = {}
    for place in grid.file.places_in():
        if place.evaluation and place.paper is not None:
            for replicate in grid.file.replicates(place.evaluation):
                printed.setdefault(replicate, {})[place.show] = place.paper
    return printed
