"""A metric's value with its 95 % interval, from a jackknife over blocks of samples.

A result file stores an `Estimate`; means over seeds, comparisons and verdicts need nothing else.
This module does not import torch.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from statistics import fmean
from typing import Literal, NamedTuple, Self

from pydantic import Field, model_validator

from psld.config.settings import Settings
from psld.utils.errors import UserError

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A number with the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


class Estimate(Settings):
    """The value θ̂ of a metric over n samples, and its value without each block of samples.

    The delete-a-block jackknife (Busing, Meijer, van der Leeden 1999, for blocks of unequal size)
    with m_j of the n samples in block j, h_j = n / m_j and θ_(−j) the value without block j is

        pseudo-value    θ_j = h_j θ̂ − (h_j − 1) θ_(−j)
        extrapolation   θ_∞ = B θ̂ − Σ_j (1 − 1/h_j) θ_(−j)
        variance        s²  = 1/B Σ_j (θ_j − θ_∞)² / (h_j − 1)

    and the interval is ± t_{B−1} s. It covers the change with another n samples of the same model;
    the reference images are taken as fixed.
    """

    value: float
    """θ̂: the metric over all samples."""
    samples: int = Field(ge=2)
    """n."""
    block_samples: tuple[int, ...] = Field(min_length=2)
    """m_j: samples in each block; their sum is n."""
    without_block: tuple[float, ...] = Field(min_length=2)
    """θ_(−j): the metric without the samples of block j."""

    @model_validator(mode="after")
    def _blocks_add_up(self) -> Self:
        if len(self.block_samples) != len(self.without_block):
            raise ValueError("block_samples and without_block differ in length")
        if min(self.block_samples) < 1 or sum(self.block_samples) != self.samples:
            raise ValueError("block_samples must be positive and add up to samples")
        return self

    def __float__(self) -> float:
        return self.value

    @property
    def blocks(self) -> int:
        return len(self.block_samples)

    @cached_property
    def standard_error(self) -> float:
        """The standard error s of both the value and its extrapolation."""
        limit = self._limit
        ratios = (self.samples / m for m in self.block_samples)
        terms = (
            (pseudo - limit) ** 2 / (ratio - 1)
            for pseudo, ratio in zip(self.pseudo_values, ratios, strict=True)
        )
        return (sum(terms) / self.blocks) ** 0.5

    @cached_property
    def pseudo_values(self) -> tuple[float, ...]:
        """The pseudo-values θ_j: one estimate of the extrapolated metric per block."""
        return tuple(
            self.samples / m * self.value - (self.samples / m - 1) * without
            for m, without in zip(self.block_samples, self.without_block, strict=True)
        )

    @cached_property
    def interval(self) -> Interval:
        """The value, with the interval of *the metric's mean over draws of n samples*.

        Papers and bands use this: a distance of n samples, with the upward bias of n samples.
        Compare it only with values of the same number of samples.
        """
        return self._around(self.value)

    @cached_property
    def extrapolated(self) -> Interval:
        """The metric at n → ∞, with its interval, for metrics with a bias of about c / n.

        FID∞ (Chong and Forsyth 2020) is the intercept of a line in 1/n through distances of
        several n. Here the line goes through n and n (1 − 1/B), the latter averaged over all
        blocks. This extrapolates least and needs no additional distances. The interval is for the
        distance from the model's distribution to the reference. A bias of higher order remains if
        that distance is 0, or if n is not large compared to the number of features.
        """
        return self._around(self._limit)

    @property
    def _limit(self) -> float:
        pairs = zip(self.block_samples, self.without_block, strict=True)
        return self.blocks * self.value - sum((1 - m / self.samples) * w for m, w in pairs)

    def _around(self, value: float) -> Interval:
        margin = t_quantile(self.blocks - 1) * self.standard_error
        return Interval(value, value - margin, value + margin)


def t_quantile(freedom: float) -> float:
    """Return the t with P(|T| < t) = 95 % for Student's T with `freedom` degrees."""
    # Importing SciPy takes a quarter of a second, and reading results does not need it.
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))


# -- means over seeds, of sampling and of training ----------------------------------------------


def averaged(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean of cells that share their noise: several trainings, one sampling seed.

    The values without block j are averaged too, so a common effect of the noise stays in the error.
    """
    first = estimates[0]
    return Estimate(
        value=fmean(estimate.value for estimate in estimates),
        samples=first.samples,
        block_samples=first.block_samples,
        without_block=tuple(map(fmean, zip(*(e.without_block for e in estimates), strict=True))),
    )


def pooled(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean of cells with independent noise: several sampling seeds.

    All blocks count, each with its own pseudo-value, as if all samples were of one cell.
    """
    value = fmean(estimate.value for estimate in estimates)
    samples = sum(estimate.samples for estimate in estimates)
    blocks = [m for estimate in estimates for m in estimate.block_samples]
    pseudo_values = [pseudo for estimate in estimates for pseudo in estimate.pseudo_values]
    return Estimate(
        value=value,
        samples=samples,
        block_samples=tuple(blocks),
        without_block=tuple(
            (samples * value - m * pseudo) / (samples - m)
            for m, pseudo in zip(blocks, pseudo_values, strict=True)
        ),
    )


def spread(values: Sequence[float]) -> Estimate:
    """Return the mean of T ≥ 2 independent values: one for each training.

    Each value is a block of its own, so the error is the standard deviation over √T, and the
    interval has T − 1 degrees of freedom.
    """
    total, count = sum(values), len(values)
    return Estimate(
        value=total / count,
        samples=count,
        block_samples=(1,) * count,
        without_block=tuple((total - value) / (count - 1) for value in values),
    )


# -- comparisons --------------------------------------------------------------------------------


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
