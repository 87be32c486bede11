"""The results of one evaluation for several seeds, with intervals and comparisons."""

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from psld.grid.figures import blocks_of
from psld.grid.places import Evaluation
from psld.grid.resolved import Grid
from psld.grid.results import CellResult, read_result
from psld.grid.tables import Show
from psld.metrics.comparison import Difference, paired_difference, unpaired_difference
from psld.metrics.estimate import Estimate, Interval
from psld.metrics.seeds import averaged, pooled, spread


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
        """The sampler and the blocks behind the noise of each sampling seed."""
        return {r.seed: (r.sampler, blocks_of(r.model.settings["process"])) for r in self.results}


def read_measured(grid: Grid, cells: Path, evaluation: Evaluation) -> Measured:
    """Read the results of an evaluation for all of its seeds.

    Args:
        cells: folder of the grid's metrics files, MODEL/SAMPLER.json.
    """
    found = (read_result(grid, cells, e) for e in grid.file.replicates(evaluation))
    return Measured(tuple(filter(None, found)))
