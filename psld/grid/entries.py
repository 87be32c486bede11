"""The entries of a table: our numbers with their intervals, the paper's, and verdicts."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal, NamedTuple, get_args

from psld.grid.records import Cell, Grid
from psld.grid.tables import Band, Number, Place
from psld.metrics.comparison import (
    Difference,
    paired_difference,
    place_in_band,
    samples_to_decide,
    unpaired_difference,
)
from psld.metrics.estimate import (
    CONFIDENCE,
    Estimate,
    Interval,
    averaged,
    combined,
    pooled,
    spread,
)
from psld.metrics.results import NUMBER_KINDS, CellResult, CellResults, Show

Status = Literal[
    *("reproduced", "off", "agrees for these weights", "differs for these weights"),
    *("undecided", "measured", "not run", "literature"),
]

STATUSES: tuple[Status, ...] = get_args(Status)

LEAST_TRAININGS = 3
"""The fewest trainings for a verdict that is not of these weights alone."""


class Rank(NamedTuple):
    """The place of an entry among the comparable entries of its column."""

    name: Literal["best", "perhaps best", "not best"]
    """The first two mark a set that contains the best with 95 %."""
    p_value: float | None = None
    """Of the difference from the best, after Bonferroni's correction."""
    paired: bool | None = None
    """True if the difference is paired by samples."""


@dataclass(frozen=True)
class SeedResults:
    """The results of one number, for all of its seeds that have been run."""

    by_cell: dict[Cell, CellResult] = field(default_factory=dict)

    @property
    def results(self) -> tuple[CellResult, ...]:
        return tuple(self.by_cell.values())

    def values(self, show: Show = "value") -> list[float]:
        return [float(result.number(show)) for result in self.results]

    def drawn(self, show: Show = "value") -> Estimate | None:
        """The mean of a number, with the error of drawing samples from these weights.

        None without results, and for a number without error. Trainings share their noise if they
        have the same sampling seed; all inpainted cells share their images.
        """
        by_noise: dict[int, list[Estimate]] = {}
        for result in self.results:
            number = result.number(show)
            if isinstance(number, Estimate):
                noise = -1 if self._inpainted else result.seed
                by_noise.setdefault(noise, []).append(number)
        if not by_noise:
            return None
        return pooled([averaged(by_noise[noise]) for noise in sorted(by_noise)])

    def by_training(self, show: Show = "value") -> dict[str, float]:
        """Return a number of each training, by the model's name: the mean over sampling seeds."""
        trainings: dict[str, list[float]] = {}
        for cell, result in self.by_cell.items():
            trainings.setdefault(cell.model.name, []).append(float(result.number(show)))
        return {name: fmean(values) for name, values in trainings.items()}

    @property
    def covers_training(self) -> bool:
        """True if a verdict is not of these weights alone.

        That takes three trainings, or the weights of the paper's authors.
        """
        imported = all(cell.model.checkpoint for cell in self.by_cell)
        return imported or len(self.by_training()) >= LEAST_TRAININGS

    def trained(self, show: Show = "value") -> Estimate | None:
        """The mean of a number with the error of training again; None for a single training."""
        values = list(self.by_training(show).values())
        return spread(values) if len(values) > 1 else None

    def interval(self, show: Show = "value") -> Interval | None:
        """Return the mean over the seeds with its 95 % interval; None without an error estimate.

        With one training it covers another draw of samples from the same weights. With several it
        covers training again too (`combined`).
        """
        errors = [each.interval for each in (self.drawn(show), self.trained(show)) if each]
        return combined(fmean(self.values(show)), errors) if errors else None

    @property
    def extrapolated(self) -> Interval | None:
        """The mean of the metric at n → ∞ with its interval, of the same errors as `interval`.

        None if a cell has too few samples, and for other metrics than Fréchet distances. None for
        inpainted cells, because there are no more images than the split has.
        """
        drawn = None if self._inpainted else self.drawn()
        if drawn is None or drawn.extrapolated is None:
            return None
        again = self.trained()  # the bias of 1/n is the same for all trainings
        errors = [drawn.extrapolated, *([again.interval] if again else [])]
        return combined(drawn.extrapolated.value, errors)

    def difference(self, other: "SeedResults") -> Difference:
        """Return the difference of the metric to that of another cell.

        It is paired by samples if both draw the same noise, whatever the sampler: the same sampling
        seeds, samples and number of blocks of variables. With several trainings, the error of
        training again is added; it is paired too if both cells are of the same models.
        """
        a, b = self.drawn(), other.drawn()
        paired = self._noise == other._noise and a.block_samples == b.block_samples
        drawn = paired_difference(a, b) if paired else unpaired_difference(a, b)
        one, two = self.by_training(), other.by_training()
        if one.keys() == two.keys():
            again = [spread([one[name] - two[name] for name in one])] if len(one) > 1 else []
        else:
            again = [each for each in (self.trained(), other.trained()) if each]
        return drawn.retrained(again)

    @property
    def _noise(self) -> set[tuple[int, int, int]]:
        """What decides the noise of sample i: seed, shard size and number of blocks of variables.

        The noise of a shard is one array of normal numbers for each draw, images × variables, and
        every sampler starts with the first. So with these three the same numbers belong to sample i
        in both cells, and no others. Without the same number of variables they belong to other
        samples, and the cells are taken as independent.
        """
        return {
            (cell.seed, cell.options.shard_size, cell.model.settings.process.blocks)
            for cell in self.by_cell
        }

    @property
    def _inpainted(self) -> bool:
        return any(cell.sampler.settings.guidance.kind == "inpainting" for cell in self.by_cell)


@dataclass(frozen=True)
class ImagesResults(SeedResults):
    """The result of images without a model of ours, which share their noise with no others."""

    result: CellResult | None = None

    @property
    def results(self) -> tuple[CellResult, ...]:
        return (self.result,) if self.result else ()

    def by_training(self, show: Show = "value") -> dict[str, float]:
        return {}

    @property
    def _noise(self) -> set[tuple[int, int, int] | str]:
        return {str(result.images_sha256) for result in self.results}


def read_results(grid: Grid, number: Number, root: Path = Path()) -> SeedResults:
    """Read the results of a number for all of its seeds, as far as they have been run.

    Results of other records are left out: the grid has changed since.

    Args:
        root: the folder of the project.
    """
    measurement, by_cell = grid.measurement(number), {}
    if number.images:
        images = grid.images()[number]
        path, record = root / images.result, measurement.digest(images.digest)
        return ImagesResults(result=CellResults.find(path, record))
    for cell in grid.replicates(number):
        if result := CellResults.find(root / cell.result, measurement.digest(cell.digest)):
            by_cell[cell] = result
    return SeedResults(by_cell)


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
        return fmean(result.nfe for result in self._sampled) if self._sampled else None

    @property
    def sampling_seconds(self) -> float | None:
        """The seconds of all shards of all seeds."""
        return sum(r.sampling_seconds for r in self._sampled) if self._sampled else None

    @property
    def sampling_device(self) -> str | None:
        return ", ".join(dict.fromkeys(r.sampling_device for r in self._sampled)) or None

    @property
    def _sampled(self) -> tuple[CellResult, ...]:
        """The results of images that a model of ours made."""
        return tuple(result for result in self.results if result.model)

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

        With fewer than three trainings it is one of these weights alone. `measured` if there is
        nothing to compare with.
        """
        if self.row.literature or (self.row.images and self.number is None):
            return "literature"
        if self.value is None:
            return "not run"
        if self._judged is None:
            return "measured"
        verdicts: dict[tuple[str, bool], Status] = {
            ("inside", True): "reproduced",
            ("outside", True): "off",
            ("inside", False): "agrees for these weights",
            ("outside", False): "differs for these weights",
        }
        place = place_in_band(*self._judged)
        return verdicts.get((place, self.measured.covers_training), "undecided")

    @property
    def needs(self) -> Literal["samples", "trainings"] | None:
        """The remedy that would narrow the interval of an undecided entry; None if it is decided.

        Below three trainings it is trainings: more samples would decide for these weights alone.
        From there on, more samples do not narrow the spread over trainings, if that is wider.
        """
        if self.status != "undecided":
            return None
        if not self.measured.covers_training:
            return "trainings"
        drawn, trained = self.measured.drawn(self.show), self.measured.trained(self.show)
        widths = [each.interval.half_width if each else 0.0 for each in (drawn, trained)]
        return "trainings" if widths[1] > widths[0] else "samples"

    @property
    def more_samples(self) -> int | None:
        """The samples that would decide an undecided entry.

        0 if it is decided. None if nothing is compared, if no number is enough, or if it needs
        more trainings.
        """
        if self._judged is None or self.needs == "trainings":
            return None
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
        cells = place.number and not place.number.images and grid.replicates(place.number)
        seeds = len(cells) if cells else int(place.number is not None)
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
