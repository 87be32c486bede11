"""The entries of a table: our numbers with their intervals, the paper's, and verdicts."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal, NamedTuple, get_args

from psld.config.settings import parse
from psld.grid.figures import blocks_of
from psld.grid.resolved import Grid
from psld.grid.results import CellResult, LikelihoodResult, read_likelihood, read_result
from psld.grid.schema import Evaluation
from psld.grid.tables import Band, Row, Show
from psld.metrics.comparison import (
    Difference,
    paired_difference,
    place_in_band,
    samples_to_decide,
    unpaired_difference,
)
from psld.metrics.estimate import CONFIDENCE, Estimate, Interval
from psld.metrics.seeds import averaged, pooled, spread
from psld.metrics.settings import MetricSettings

Status = Literal["reproduced", "off", "undecided", "measured", "not run", "literature"]

STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass(frozen=True)
class Measured:
    """The results of one evaluation, for all of its seeds that have been run."""

    results: tuple[CellResult, ...] = ()

    def values(self, show: Show = "value") -> list[float]:
        return [result.number(show) for result in self.results]

    def drawn(self, show: Show = "value") -> Estimate | None:
        """The mean of a number, with the error of drawing samples from these weights.

        None without results, and for a count. Trainings share their noise if they have the same
        sampling seed.
        """
        by_seed: dict[int, list[Estimate]] = {}
        for result in self.results:
            if estimate := result.estimate_of(show):
                by_seed.setdefault(result.seed, []).append(estimate)
        if not by_seed:
            return None
        return pooled([averaged(by_seed[seed]) for seed in sorted(by_seed)])

    def trained(self, show: Show = "value") -> Estimate | None:
        """The mean of a number with the error of training again; None for a single training."""
        trainings: dict[str, list[float]] = {}
        for result in self.results:
            trainings.setdefault(result.model.name, []).append(result.number(show))
        return spread(list(map(fmean, trainings.values()))) if len(trainings) > 1 else None

    def interval(self, show: Show = "value") -> Interval | None:
        """Return the mean over the seeds with its 95 % interval; None without an error estimate.

        With one training it covers another draw of samples from the same weights. With several it
        is the wider of that and of the spread over trainings, and covers training again.
        """
        estimates = (self.drawn(show), self.trained(show))
        errors = [estimate.interval for estimate in estimates if estimate]
        if not errors:
            return None
        mean, width = fmean(self.values(show)), max(error.half_width for error in errors)
        return Interval(mean, mean - width, mean + width)

    def difference(self, other: "Measured") -> Difference:
        """Return the difference of the metric to that of another cell.

        It is paired by samples if both draw the same noise: the same sampler, sampling seeds,
        blocks of samples and number of blocks of variables. With several trainings, return the
        larger of two p-values: over samples, and over trainings.
        """
        a, b = self.drawn(), other.drawn()
        paired = self._noise == other._noise and a.block_samples == b.block_samples
        drawn = paired_difference(a, b) if paired else unpaired_difference(a, b)
        trained, other_trained = self.trained(), other.trained()
        if not (trained or other_trained):
            return drawn
        again = unpaired_difference(trained or a, other_trained or b)
        return max(drawn, again, key=lambda difference: difference.p_value)

    @property
    def _noise(self) -> dict[int, tuple[dict[str, Any], int]]:
        """What decides the noise of each sampling seed, besides the shape of the images."""
        return {r.seed: (r.sampler, blocks_of(r.model.settings["process"])) for r in self.results}


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
        """What would narrow the interval of an undecided entry; None if it is decided.

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


def read_measured(grid: Grid, cells: Path, evaluation: Evaluation) -> Measured:
    """Read the results of an evaluation for all of its seeds.

    Args:
        cells: folder of the grid's metrics files, MODEL/SAMPLER.json.
    """
    found = (read_result(grid, cells, e) for e in grid.file.replicates(evaluation))
    return Measured(tuple(filter(None, found)))


def read_table(grid: Grid, name: str, cells: Path) -> list[list[TableEntry]]:
    """All entries of a table, row by row.

    Args:
        cells: folder of the grid's metrics files, MODEL/SAMPLER.json and MODEL/likelihood.json.
    """
    table = grid.file.tables[name]
    rows = []
    models_shown = grid.file.likelihoods_by_table[name]
    for row, evaluations, models in zip(
        table.rows, grid.file.evaluations_by_table[name], models_shown, strict=True
    ):
        papers = row.paper or (None,) * len(table.columns)
        entries = []
        for column, evaluation, model, paper in zip(
            table.columns, evaluations, models, papers, strict=True
        ):
            show = table.show_of(row, column)
            entry = TableEntry(row, column.label, show, evaluation, paper, table.band)
            if evaluation:
                seeds = len(grid.file.replicates(evaluation))
                measured = read_measured(grid, cells, evaluation)
                entry = replace(entry, seeds=seeds, measured=measured)
            if model:
                entry = replace(entry, likelihood=read_likelihood(grid, cells, model))
            entries.append(entry)
        rows.append(entries)
    ranked = [_ranked(grid, column) for column in zip(*rows, strict=True)]
    return [list(row) for row in zip(*ranked, strict=True)]


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
        if len(places) > 1:
            settings = parse(MetricSettings, grid.metrics[metric], where=metric)
            better = max if settings.larger_is_better else min
            best = better(places, key=lambda place: entries[place].value)
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
    for name, table in grid.file.tables.items():
        for row, evaluations in zip(table.rows, grid.file.evaluations_by_table[name], strict=True):
            papers = row.paper or (None,) * len(table.columns)
            for column, evaluation, paper in zip(table.columns, evaluations, papers, strict=True):
                if evaluation and paper is not None:
                    for replicate in grid.file.replicates(evaluation):
                        shown = printed.setdefault(replicate, {})
                        shown[table.show_of(row, column)] = paper
    return printed
