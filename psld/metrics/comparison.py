"""Comparisons of estimates: which of two cells is better, and how many more samples decide."""

import math
from typing import NamedTuple

from psld.metrics.estimate import CONFIDENCE, Estimate, Interval, t_quantile
from psld.utils.errors import UserError


class Difference(NamedTuple):
    """a − b of one metric of two cells, with its 95 % interval."""

    interval: Interval
    """The difference of the values, and its ends."""
    p_value: float
    """Probability of a difference at least as large if both cells had the same metric."""
    paired: bool
    """If the cells share their noise and were compared block by block."""

    @property
    def significant(self) -> bool:
        """If the interval excludes zero."""
        return self.p_value < 1 - CONFIDENCE


def paired_difference(a: Estimate, b: Estimate) -> Difference:
    """a − b for cells whose i-th samples come from the same noise: same seed, same sampler.

    What the shared noise does to both cells cancels: the jackknife is of the difference itself,
    with its values without block j, a_(−j) − b_(−j). Raises UserError when the cells were not cut
    into the same blocks.
    """
    if a.block_samples != b.block_samples:
        raise UserError(
            f"cells of {a.samples} samples in {a.blocks} blocks and of {b.samples} in {b.blocks} "
            "cannot be paired: compare as many samples in as many blocks"
        )
    difference = Estimate(
        value=a.value - b.value,
        samples=a.samples,
        block_samples=a.block_samples,
        without_block=tuple(x - y for x, y in zip(a.without_block, b.without_block, strict=True)),
    )
    return _difference(difference.value, difference.standard_error, a.blocks - 1, paired=True)


def unpaired_difference(a: Estimate, b: Estimate) -> Difference:
    """a − b for independent cells: s² = s_a² + s_b², degrees of freedom by Welch and Satterthwaite.

    For cells of different numbers of samples the biases differ, too; compare cells of equal n.
    """
    u, v = a.standard_error**2, b.standard_error**2
    weights = u**2 / (a.blocks - 1) + v**2 / (b.blocks - 1)
    freedom = (u + v) ** 2 / weights if weights else a.blocks + b.blocks - 2
    return _difference(a.value - b.value, (u + v) ** 0.5, freedom, paired=False)


def _difference(value: float, error: float, freedom: float, paired: bool) -> Difference:
    # SciPy takes a quarter of a second to import, and reading results does without it.
    from scipy.special import stdtr

    margin = t_quantile(freedom) * error
    interval = Interval(value, value - margin, value + margin)
    if error:
        return Difference(interval, 2 * float(stdtr(freedom, -abs(value) / error)), paired)
    return Difference(interval, 0.0 if value else 1.0, paired)


def samples_to_decide(interval: Interval, samples: int, low: float, high: float) -> int | None:
    """How many samples *more* decide if a value lies in the band [low, high]; 0 if it is decided.

    Undecided is an interval that overlaps the band only in part. Its half-width w shrinks as
    1/√n, so if the value stays, it clears the nearer end of the band, at distance δ, with
    n (w / δ)² samples in all. None if the value lies exactly on an end: then no number is enough.

    The samples are meant as further seeds of the same cell, whose values are averaged: a larger n
    in one cell would also change the bias that the value shares with the band.
    """
    inside = low <= interval.low and interval.high <= high
    outside = interval.high < low or interval.low > high
    if inside or outside:
        return 0
    distance = min(abs(interval.value - end) for end in (low, high))
    if distance == 0:
        return None
    return math.ceil(samples * (interval.half_width / distance) ** 2) - samples
