"""The results of a number of a grid: for all of its seeds, or of images of others."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Literal

from psld.grid.cells import Cell, Grid
from psld.grid.tables import Number
from psld.metrics.comparison import Difference, paired_difference, unpaired_difference
from psld.metrics.estimate import Estimate, Interval, averaged, combined, pooled, spread
from psld.metrics.results import CellResult, CellResults, Show

LEAST_TRAININGS = 3
"""The fewest trainings for a verdict that is not of these weights alone."""

Scope = Literal["training", "imported weights", "these weights"]
"""What a verdict is of: trainings of this kind, a checkpoint of others, or less than either."""


@dataclass(frozen=True)
class SeedResults:
    """The results of one number, for all of its seeds that have been run."""

    by_cell: dict[Cell, CellResult] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    """The files that are there, but hold no result of these records."""

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
                noise = -1 if self.inpainted else result.seed
                by_noise.setdefault(noise, []).append(number)
        if not by_noise:
            return None
        return pooled([averaged(by_noise[noise]) for noise in sorted(by_noise)])

    def by_training(self, show: Show = "value") -> dict[str, float]:
        """Return a number of each training, by its weights: the mean over sampling seeds.

        Models that share weights, a denoiser as several processes, have the same trainings. Copies
        of a training under other names are one.
        """
        trainings: dict[str, list[float]] = {}
        for result in self.results:
            trainings.setdefault(result.model.weights_sha256, []).append(float(result.number(show)))
        return {weights: fmean(values) for weights, values in trainings.items()}

    @property
    def scope(self) -> Scope:
        """What a verdict is of: with fewer than three trainings, of these weights alone."""
        if all(result.model.imported for result in self.results):
            return "imported weights"
        return "training" if len(self.by_training()) >= LEAST_TRAININGS else "these weights"

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
        drawn = None if self.inpainted else self.drawn()
        if drawn is None or drawn.extrapolated is None:
            return None
        again = self.trained()  # the bias of 1/n is the same for all trainings
        errors = [drawn.extrapolated, *([again.interval] if again else [])]
        return combined(drawn.extrapolated.value, errors)

    def difference(self, other: "SeedResults", show: Show = "value") -> Difference:
        """Return the difference of a number to that of another cell.

        It is paired by samples if both draw the same noise, whatever the sampler: the same sampling
        seeds, samples and number of blocks of variables. With several trainings, the error of
        training again is added; it is paired too if both cells are of the same trainings. A count
        has this error alone.
        """
        a, b = self.drawn(show), other.drawn(show)
        if a is None or b is None:
            value = fmean(self.values(show)) - fmean(other.values(show))
            drawn = Difference(value, (), paired=False)
        else:
            paired = self._noise == other._noise and a.block_samples == b.block_samples
            drawn = paired_difference(a, b) if paired else unpaired_difference(a, b)
        return drawn.retrained(self.by_training(show), other.by_training(show))

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
    def inpainted(self) -> bool:
        return any(cell.sampler.settings.guidance.kind == "inpainting" for cell in self.by_cell)


@dataclass(frozen=True)
class ImagesResults(SeedResults):
    """The result of images of others, whose noise is not known."""

    result: CellResult | None = None

    @property
    def results(self) -> tuple[CellResult, ...]:
        return (self.result,) if self.result else ()

    def by_training(self, show: Show = "value") -> dict[str, float]:
        return {}

    @property
    def scope(self) -> Scope:
        """A verdict is of the file, which nobody trains again."""
        return "training"

    @property
    def _noise(self) -> set[tuple[int, int, int] | str]:
        return {str(result.images_sha256) for result in self.results}


def read_results(grid: Grid, number: Number, root: Path = Path()) -> SeedResults:
    """Read the results of a number for all of its seeds, as far as they have been run.

    Results of other records are left out: the grid has changed since, or their files were moved.

    Args:
        root: the folder of the project.
    """
    measurement = grid.measurement(number)
    made = [grid.images[number]] if number.images else grid.replicates(number)
    found, others = {}, []
    for each in made:
        if result := CellResults.find(root / each.result, measurement.digest(each.digest)):
            found[each] = result
        elif (root / each.result).exists():
            others.append(each.result)
    if number.images:
        return ImagesResults(others=tuple(others), result=found.get(grid.images[number]))
    return SeedResults(_complete(found), tuple(others))


def _complete(by_cell: dict[Cell, CellResult]) -> dict[Cell, CellResult]:
    """Return the results for the sampling seeds that all trainings have, else for the commonest.

    So value, errors and differences give all trainings the same weight, while a grid runs too.
    """
    trainings = len({cell.model.folder for cell in by_cell})
    counts = Counter(cell.seed for cell in by_cell)
    kept = {seed for seed, count in counts.items() if count == trainings}
    kept = kept or dict(counts.most_common(1))
    return {cell: result for cell, result in by_cell.items() if cell.seed in kept}
