"""Comparisons of estimates: the difference of two cells, and the samples needed for a decision."""

import math
from typing import Literal, NamedTuple

from psld.metrics.estimate import Estimate, Interval
from psld.utils.errors import UserError


class Difference(NamedTuple):
    """The difference a − b of one metric of two cells, with its significance."""

    value: float
    p_value: float
    """The probability of a difference at least as large if both cells had the same metric."""
    paired: bool
    """True if the cells share their noise and were compared block by block."""


def paired_difference(a: Estimate, b: Estimate) -> Difference:
    """Return a − b for cells with the same noise for each sample i: same seed, same sampler.

    The common effect of the noise cancels: the jackknife is of the difference itself, with its
    values without block j, a_(−j) − b_(−j). Raises UserError if the cells have different blocks.
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
    """Return a − b for independent cells, with s² = s_a² + s_b².

    The degrees of freedom are those of Welch and Satterthwaite. The biases of cells with different
    numbers of samples also differ, so compare cells of equal n.
    """
    u, v = a.standard_error**2, b.standard_error**2
    weights = u**2 / (a.blocks - 1) + v**2 / (b.blocks - 1)
    freedom = (u + v) ** 2 / weights if weights else a.blocks + b.blocks - 2
    return _difference(a.value - b.value, (u + v) ** 0.5, freedom, paired=False)


def _difference(value: float, error: float, freedom: float, paired: bool) -> Difference:
    # Importing SciPy takes a quarter of a second, and reading results does not need it.
    from scipy.special import stdtr

    if error:
        return Difference(value, 2 * float(stdtr(freedom, -abs(value) / error)), paired)
    return Difference(value, 0.0 if value else 1.0, paired)


def place_in_band(
    interval: Interval, low: float, high: float
) -> Literal["inside", "outside", "overlap"]:
    """Compare an interval, or a number as an interval of width 0, with the band [low, high].

    Only a whole interval is `inside` or `outside`.
    """
    if low <= interval.low and interval.high <= high:
        return "inside"
    return "outside" if interval.high < low or interval.low > high else "overlap"


def samples_to_decide(interval: Interval, samples: int, low: float, high: float) -> int | None:
    """Return the number of *additional* samples that decide if a value is in the band [low, high].

    The interval is that of sampling. If it overlaps the band only in part, it is undecided;
    otherwise the result is 0. The half-width w shrinks as 1/√n. If the value does not change, the
    interval clears the nearer end of the band, at distance δ, with n (w / δ)² samples in total. The
    result is None if the value is exactly on an end: then no number is enough.

    Get the samples as further seeds of the same cell, and average their values. A larger n in one
    cell would also change the bias that the value shares with the band.
    """
    if place_in_band(interval, low, high) != "overlap":
        return 0
    distance = min(abs(interval.value - end) for end in (low, high))
    if distance == 0:
        return None
    return max(1, math.ceil(samples * (interval.half_width / distance) ** 2) - samples)
