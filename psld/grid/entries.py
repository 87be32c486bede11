"""The entries of a table: their places, our numbers with intervals, and the verdicts."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal, NamedTuple, cast, get_args

from psld.evaluation.results import (
    NUMBER_KINDS,
    CellResults,
    ModelResult,
    Show,
    place_in_band,
    samples_to_decide,
)
from psld.evaluation.settings import Measurement
from psld.grid.cells import Cell
from psld.grid.tables import Band, Row, Shown
from psld.metrics.estimate import (
    Difference,
    Estimate,
    Interval,
    averaged,
    combined,
    paired_difference,
    pooled,
    spread,
    unpaired_difference,
)

LEAST_TRAININGS = 3
"""The smallest number of trainings for a verdict about the training in general. With fewer
trainings, the verdict applies only to the trained weights."""

Status = Literal[  # noqa: RUF041
    Literal["reproduced", "off", "agrees for these weights", "differs for these weights"],
    Literal["agrees for imported weights", "differs for imported weights"],
    Literal["undecided", "measured", "not run", "literature"],
]

STATUSES: tuple[Status, ...] = get_args(Status)


class Rank(NamedTuple):
    """The rank of an entry among the comparable entries of its column."""

    name: Literal["best", "perhaps best", "not best"]
    """The entries with `best` and `perhaps best` form a set that contains the truly best entry with
    95 % confidence."""
    p_value: float | None = None
    """The p-value of the difference from the best entry, after Bonferroni's correction."""
    paired: bool | None = None
    overlaps: bool = False
    """True if the interval of the entry overlaps the interval of the best entry."""


@dataclass(frozen=True, eq=False)
class Entry:
    """One entry of a table: its row and column, its cells with their results so far, and the
    verdict."""

    row: Row
    column: str
    """The label of the column."""
    shown: Shown
    paper: float | None
    band: Band | None
    cells: tuple[Cell, ...] = ()
    """One cell for each pair of training and sampling seed; empty in a row with `literature`."""
    measurement: Measurement = field(default=cast(Measurement, None))  # None for literature
    by_cell: Mapping[Cell, ModelResult] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    """The result files that exist but contain results of other records."""
    void: tuple[str, ...] = ()
    """The reasons why results have no valid value."""
    rank: Rank | None = None

    def read(self, root: Path = Path()) -> "Entry":
        """Return the entry with the results below `root`, the folder of the project.

        Result files of other records are not used. Such files exist if the grid has changed since
        the evaluation, or if files were moved.
        """
        found, others, void = {}, [], []
        for cell in self.cells:
            path, record = root / cell.result, cell.record_of(self.measurement)
            result = CellResults.find(path, record)
            if result and result.void:
                void.append(f"{self.shown.metric} on {cell.model.dataset}: {result.void}")
            elif result:
                found[cell] = result
            elif path.exists():
                others.append(cell.result)
        return replace(self, by_cell=_balanced(found), others=tuple(others), void=tuple(void))

    @property
    def label(self) -> str:
        return f"{' '.join(self.row.label)}, {self.column}"

    @property
    def show(self) -> Show:
        return self.shown.show

    @property
    def samples(self) -> int:
        """The number of samples per seed."""
        return self.shown.samples

    @property
    def cell(self) -> Cell:
        return self.cells[0]

    @property
    def number(self) -> tuple[Cell, Measurement]:
        """The first cell and the measurement, which identify the result.

        Entries that show different numbers of the same result have the same cell and measurement.
        """
        return self.cell, self.measurement

    @property
    def axis(self) -> tuple[str, Measurement]:
        """The dataset and the measurement. Values of entries with the same axis are comparable."""
        return self.cell.model.dataset, self.measurement

    # -- our number ---------------------------------------------------------------------------

    @property
    def results(self) -> tuple[ModelResult, ...]:
        return tuple(self.by_cell.values())

    @property
    def missing_seeds(self) -> int:
        """The number of cells whose results are missing in `value`."""
        return len(self.cells) - len(self.by_cell)

    @property
    def values(self) -> list[float]:
        return [float(NUMBER_KINDS[self.show].read(result)) for result in self.results]

    @property
    def value(self) -> float | None:
        """Our number, the mean over seeds."""
        return fmean(self.values) if self.by_cell else None

    @property
    def minimum(self) -> float | None:
        return min(self.values) if len(self.by_cell) > 1 else None

    @property
    def by_training(self) -> dict[str, float]:
        """The mean over sampling seeds of each training, keyed by the digest of its weights.

        Models with the same weights count as one training, also if the weights were copied.
        """
        trainings: dict[str, list[float]] = {}
        for result, value in zip(self.results, self.values, strict=True):
            trainings.setdefault(result.model.weights_sha256, []).append(value)
        return {weights: fmean(values) for weights, values in trainings.items()}

    @property
    def trainings(self) -> int | None:
        return len(self.by_training) or None

    @property
    def deviation(self) -> float | None:
        values = self.by_training.values()
        return stdev(values) if len(values) > 1 else None

    @property
    def scope(self) -> Literal["training", "imported weights", "these weights"]:
        """What the verdict is about: the training in general, or only the weights at hand."""
        if any(result.model.imported for result in self.results):
            return "imported weights"
        return "training" if len(self.by_training) >= LEAST_TRAININGS else "these weights"

    @cached_property
    def drawn(self) -> Estimate | None:
        """Our number with the error that comes from drawing a finite number of samples.

        None without results, and for a number without an error. Trainings with the same sampling
        seed use the same noise, and all inpainted cells use the same images, so their errors are
        not independent.
        """
        by_noise: dict[int, list[Estimate]] = {}
        for result in self.results:
            number = NUMBER_KINDS[self.show].read(result)
            if isinstance(number, Estimate):
                noise = -1 if self.is_inpainted else result.seed
                by_noise.setdefault(noise, []).append(number)
        if not by_noise:
            return None
        return pooled([averaged(by_noise[noise]) for noise in sorted(by_noise)])

    @property
    def trained(self) -> Estimate | None:
        """Our number with the error that comes from the variation between trainings.

        None if there is only one training.
        """
        values = list(self.by_training.values())
        return spread(values) if len(values) > 1 else None

    @cached_property
    def interval(self) -> Interval | None:
        """Our number with its 95 % interval; None without an error estimate.

        The interval accounts for the variation between draws of samples and, if there are several
        trainings, also for the variation between trainings.
        """
        errors = [each.interval for each in (self.drawn, self.trained) if each]
        return combined(fmean(self.values), errors) if errors else None

    @cached_property
    def extrapolated(self) -> Interval | None:
        """The Fréchet distance, extrapolated to infinitely many samples, with its 95 % interval.

        The interval accounts for the same errors as `interval`. The value is None for other kinds
        of numbers, if a cell has too few samples, and for inpainted cells, because their number of
        images is limited by the size of the split.
        """
        drawn = None if self.is_inpainted or self.show != "value" else self.drawn
        if drawn is None or drawn.extrapolated is None:
            return None
        # All trainings have the same bias of order 1/n in n samples, so extrapolation does not
        # change the variation between trainings.
        again = self.trained
        errors = [drawn.extrapolated, *([again.interval] if again else [])]
        return combined(drawn.extrapolated.value, errors)

    def minus(self, other: "Entry", times: float = 1.0) -> Difference:
        """Return our number for this entry minus `times` our number for another entry.

        The numbers may be counts. The samples are paired if both entries draw the same noise, also
        with different samplers. If there are several trainings, the error between trainings is
        included. A training that starts from the weights of another training is paired with this
        other training.
        """
        a, b = self.drawn, other.drawn
        if a is None or b is None:
            drawn = Difference(fmean(self.values) - times * fmean(other.values), (), paired=False)
        else:
            paired = self._noise == other._noise and a.block_samples == b.block_samples
            compared = paired_difference if paired else unpaired_difference
            drawn = compared(a, b, times)
        others = {name: times * value for name, value in other._by_first_weights.items()}
        return drawn.retrained(self._by_first_weights, others)

    @property
    def loss(self) -> float | None:
        """A number that is smaller for a better entry.

        None if the metric defines no direction in which it improves.
        """
        value, floor = cast(float, self.value), self.results[0].floor
        match self.measurement.metric.better:
            case "smaller":
                return value
            case "larger":
                return -value
            case "floor" if floor is not None:
                return abs(value - floor)
        return None

    def worse_than(self, best: "Entry") -> Difference:
        """Return the difference between the losses of this entry and the best entry.

        The difference may have either sign.
        """
        floor, values = self.results[0].floor, (cast(float, e.value) for e in (self, best))
        if self.measurement.metric.better != "floor" or floor is None:
            return self.minus(best)
        if math.prod(value - floor for value in values) >= 0:
            return self.minus(best)
        both = self.minus(best, -1.0)  # (a − floor) − (floor − b)
        return both._replace(value=both.value - 2 * floor)

    @property
    def _by_first_weights(self) -> dict[str, float]:
        """The numbers of `by_training`; the keys are the digests of the initial weights.

        If two trainings have the same initial weights, the result is `by_training` itself.
        """
        models = [result.model for result in self.results]
        first = {m.weights_sha256: (m.init or {}).get("weights_sha256") for m in models}
        began = {weights: before or weights for weights, before in first.items()}
        if len({*began.values()}) < len(began):
            return self.by_training
        return {began[weights]: value for weights, value in self.by_training.items()}

    @property
    def _noise(self) -> set[tuple[int, int, int]]:
        """The seed, the shard size and the number of blocks of variables of each cell.

        These numbers determine the noise of sample i. Each draw for a shard is one array of normal
        numbers, images × variables, and all samplers start with the same first array. If two cells
        have different numbers of variables, the same normal numbers belong to different samples, so
        these cells count as independent.
        """
        return {
            (cell.seed, cell.options.shard_size, cell.model.settings.process.blocks)
            for cell in self.by_cell
        }

    @property
    def is_worse_than_noise(self) -> bool:
        """True if the value is a distance and is larger than the distance of pure noise."""
        if self.show != "value" or self.value is None:
            return False
        noise, better = self.results[0].noise, self.measurement.metric.better
        return noise is not None and better == "smaller" and self.value > noise

    @property
    def is_inpainted(self) -> bool:
        return any(cell.sampler.settings.guidance.inpaints for cell in self.by_cell)

    @property
    def nfe(self) -> float | None:
        return fmean(result.nfe for result in self.results) if self.by_cell else None

    # -- the comparison with the paper --------------------------------------------------------

    @property
    def difference(self) -> float | None:
        return None if self.value is None or self.paper is None else self.value - self.paper

    @property
    def width(self) -> float | None:
        """The largest difference from the paper that counts as reproduced.

        None for the NFE of a sampler with fixed steps, because this NFE is a setting, not a result.
        """
        if self.band is None or self.paper is None:
            return None
        cost = not NUMBER_KINDS[self.show].from_features
        if cost and self.results and "steps" in self.results[0].sampler:
            return None
        return self.band.width(self.paper, self.show)

    @property
    def _judged(self) -> tuple[Interval, float, float] | None:
        """Our number with its interval, and the lower and upper end of the band.

        None if our number, the paper's number or the band is missing.
        """
        if self.value is None or self.paper is None or self.width is None:
            return None
        interval = self.interval or Interval(self.value, self.value, self.value)
        return interval, self.paper - self.width, self.paper + self.width

    @property
    def status(self) -> Status:
        """The verdict: whether the complete interval is inside or outside the band.

        The verdict is `measured` if the entry has no number of the paper or no band.
        """
        if self.row.literature:
            return "literature"
        if self.value is None:
            return "not run"
        if self._judged is None:
            return "measured"
        place = place_in_band(*self._judged)
        if place == "overlap":
            return "undecided"
        if self.scope == "training":
            return "reproduced" if place == "inside" else "off"
        return cast(Status, f"{'agrees' if place == 'inside' else 'differs'} for {self.scope}")

    @property
    def needs(self) -> Literal["samples", "trainings"] | None:
        """What an undecided entry needs; None for a decided entry, or if nothing would help.

        With fewer than three trainings, more samples would lead to a verdict about these weights
        only. An inpainted cell cannot have more samples than the split has images.
        """
        if self.status != "undecided":
            return None
        if self.scope == "these weights":
            return "trainings"
        if not self.is_inpainted and self._samples_to_decide:
            return "samples"
        return "trainings" if self.trained else None

    @property
    def more_samples(self) -> int | None:
        """The number of samples with which the entry would be decided; 0 for a decided entry.

        None if the entry is not compared with the paper, or if more samples alone cannot decide it.
        """
        if self._judged is None:
            return None
        if self.status != "undecided":
            return 0
        return self._samples_to_decide if self.needs == "samples" else None

    @property
    def _samples_to_decide(self) -> int | None:
        interval, low, high = cast(tuple[Interval, float, float], self._judged)
        fixed = self.trained.interval.half_width if self.trained else 0.0
        samples = self.samples * len(self.results)
        return samples_to_decide(interval, samples, low, high, fixed)


def _balanced(by_cell: dict[Cell, ModelResult]) -> dict[Cell, ModelResult]:
    """Return the results of the sampling seeds for which all trainings have results.

    If there is no such seed, return the results of the most common seed. In both cases, all
    trainings have equal weight in values, errors and differences, even while the grid is running.
    """
    trainings = len({cell.model.folder for cell in by_cell})
    counts = Counter(cell.seed for cell in by_cell)
    kept = {seed for seed, count in counts.items() if count == trainings}
    kept = kept or dict(counts.most_common(1))
    return {cell: result for cell, result in by_cell.items() if cell.seed in kept}
