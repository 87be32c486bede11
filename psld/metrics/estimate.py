"""A metric's value with its 95 % interval, from a jackknife over blocks of samples.

A result file stores an `Estimate`; tables, comparisons and verdicts need nothing else. This module
does not import torch.
"""

from functools import cached_property
from typing import NamedTuple, Self

from pydantic import Field, model_validator

from psld.config.settings import Settings

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
