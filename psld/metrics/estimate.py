"""Estimates of metrics with 95 % intervals from a jackknife over blocks, and their differences.

A result file stores an `Estimate`. Means over seeds, comparisons and verdicts are computed from the
stored estimates.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from statistics import fmean
from typing import Any, NamedTuple, Self, cast

from pydantic import Field, model_validator

from psld.config.settings import Settings
from psld.utils.errors import UserError

CONFIDENCE = 0.95
EXTRAPOLATED_FROM = 4
"""The smallest number of samples per feature for which values are extrapolated to n → ∞."""
TESTED_FROM = 50
"""The smallest number of samples for which intervals were tested (docs/notes/intervals.md)."""
SECOND_ORDER = 0.2
"""The bias of order 1/n² divided by the bias of order 1/n, for one sample per feature.

The value is chosen so that the extrapolated intervals of independent, equally scaled features have
their nominal coverage.
"""


class Interval(NamedTuple):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


class Estimate(Settings):
    """The value θ̂ of a metric for n samples, and its values without each block of samples.

    Block j contains m_j of the n samples. Let h_j = n / m_j, and let θ_(−j) be the value without
    block j. The delete-a-block jackknife (Busing, Meijer, van der Leeden 1999) is

        pseudo-value    θ_j = h_j θ̂ − (h_j − 1) θ_(−j)
        extrapolation   θ_∞ = B θ̂ − Σ_j (1 − 1/h_j) θ_(−j)
        variance        s²  = 1/B Σ_j (θ_j − θ_∞)² / (h_j − 1)

    and the interval is ± t_{B−1} s. The reference images are treated as fixed.

    If the metric is a fraction p̂ (`share`), the interval is Wilson's interval (1927), with t_{B−1}
    in place of z. The number of samples n is replaced by the effective number n' = p̂ (1 − p̂) / s²
    (Korn and Graubard 1998), because in a mean over trainings, samples of different trainings have
    the same noise. If s = 0, n' = n. If p̂ is the fraction of samples below a quantile of the
    values of N other images, 1/n' increases by 1/N, because the quantile varies, too: the
    probability that a new value is below the k-th smallest of N values has the distribution
    Beta(k, N + 1 − k).
    """

    value: float
    """θ̂: the metric of all samples."""
    samples: int = Field(ge=2)
    """n: the number of samples."""
    copies: int = Field(default=0, ge=0)
    """Number of external images that are copies of an earlier image. All copies of an image are in
    the same block."""
    block_samples: tuple[int, ...] = Field(min_length=2)
    """m_j: the number of samples in each block; the sum of all m_j is n."""
    without_block: tuple[float, ...] = Field(min_length=2)
    """θ_(−j): the metric without the samples of block j."""
    features: int | None = None
    """d: the number of features, for a metric with a bias of about c / n, such as a Fréchet
    distance; None for other metrics."""
    share: bool = False
    """True if the value is a fraction of samples or images."""
    threshold_images: int | None = None
    """N for a fraction whose threshold is a quantile of N other images; None for other metrics."""

    @model_validator(mode="after")
    def _check_blocks(self) -> Self:
        if min(self.block_samples) < 1 or sum(self.block_samples) != self.samples:
            raise ValueError("block_samples must be positive and add up to samples")
        return self

    def __float__(self) -> float:
        return self.value

    @property
    def blocks(self) -> int:
        return len(self.block_samples)

    @property
    def distinct(self) -> int:
        return self.samples - self.copies

    @cached_property
    def standard_error(self) -> float:
        """The standard error s, which holds for the value and for its extrapolation."""
        limit = self._limit
        pairs = zip(self.pseudo_values, self.block_samples, strict=True)
        terms = ((pseudo - limit) ** 2 / (self.samples / m - 1) for pseudo, m in pairs)
        return (sum(terms) / self.blocks) ** 0.5

    @cached_property
    def pseudo_values(self) -> tuple[float, ...]:
        """The pseudo-values θ_j. Each block gives one estimate of the extrapolated metric."""
        return tuple(
            self.samples / m * self.value - (self.samples / m - 1) * without
            for m, without in zip(self.block_samples, self.without_block, strict=True)
        )

    @cached_property
    def interval(self) -> Interval:
        """The value, with an interval for the mean of the metric over many sets of n samples.

        This mean includes the bias at n samples, so compare values and intervals only at equal n.
        """
        return self._wilson() if self.share else self._around(self.value)

    @cached_property
    def extrapolated(self) -> Interval | None:
        """The metric at n → ∞, with its interval, for metrics with a bias of about c / n.

        The result is None for other metrics, and if the samples are the reference images
        themselves. It is also None if terms of higher order in 1/n may be too large for the
        interval: with fewer than 4 d samples for d features, or if 0.2 d/n times the extrapolated
        bias exceeds half of the half-width.

        FID∞ (Chong and Forsyth 2020) is the intercept of a line in 1/n through the distances at
        several n. Here, the line goes through two points: the distance at n, and, at n (1 − 1/B),
        the mean of the B distances that each leave out one block. A bias of higher order remains if
        the true distance is 0.
        """
        return self._around(self._limit) if self._extrapolates else None

    @property
    def _extrapolates(self) -> bool:
        if self.features is None or self.distinct < EXTRAPOLATED_FROM * self.features:
            return False
        is_reference = self.value < 1e-6 * abs(self._limit)  # The distance is 0 up to rounding.
        return not is_reference and self._rest <= self._around(self._limit).half_width / 2

    @property
    def _rest(self) -> float:
        """An upper bound on the second-order bias that remains after the extrapolation."""
        share = SECOND_ORDER * (self.features or 0) / self.distinct
        return share * abs(self.value - self._limit)

    @property
    def _limit(self) -> float:
        pairs = zip(self.block_samples, self.without_block, strict=True)
        return self.blocks * self.value - sum((1 - m / self.samples) * w for m, w in pairs)

    def _around(self, value: float) -> Interval:
        margin = t_quantile(self.blocks - 1) * self.standard_error
        return Interval(value, value - margin, value + margin)

    def _wilson(self) -> Interval:
        p, n = self.value, float(self.distinct)
        variance = max(p * (1 - p), 0.0)
        if variance > 0 and self.standard_error > 1e-9:  # A smaller error is 0 up to rounding.
            n = variance / self.standard_error**2
        if self.threshold_images:
            n = 1 / (1 / n + 1 / self.threshold_images)
        square = t_quantile(self.blocks - 1) ** 2 / n
        center, margin = p + square / 2, (square * (variance + square / 4)) ** 0.5
        low, high = ((center + sign * margin) / (1 + square) for sign in (-1, 1))
        # With rounding, the interval could exclude p = 0 or p = 1, so extend it to p.
        return Interval(p, min(low, p), max(high, p))


class Finding(NamedTuple):
    """The result of a measure. A result file has the same fields."""

    estimate: Estimate
    void: str | None = None
    """The reason why the value is meaningless; None for a meaningful value."""
    nearest: list[tuple[int, int]] | None = None
    """The pairs (sample, training image) with the smallest distances, as indices."""


def t_quantile(freedom: float, p: float = 1 - CONFIDENCE) -> float:
    """Return t with P(|T| > t) = p for Student's T with `freedom` degrees of freedom."""
    # Imported late, because importing SciPy takes a quarter of a second and commands that only read
    # results do not need it.
    from scipy.special import stdtrit

    return -float(stdtrit(freedom, p / 2))


# -- means over sampling seeds and training seeds -----------------------------------------------


def averaged(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean over cells with the same noise: several trainings with one sampling seed.

    The values without block j are also averaged over the cells, so the error includes the effect of
    the common noise.
    """
    first = estimates[0]
    return Estimate(
        value=fmean(estimate.value for estimate in estimates),
        samples=first.samples,
        block_samples=first.block_samples,
        without_block=tuple(map(fmean, zip(*(e.without_block for e in estimates), strict=True))),
        **_kind(estimates),
    )


def pooled(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean over cells with independent noise, as one jackknife over all their blocks."""
    value = fmean(estimate.value for estimate in estimates)
    samples = sum(estimate.samples for estimate in estimates)
    blocks = [m for estimate in estimates for m in estimate.block_samples]
    pseudo_values = [pseudo for estimate in estimates for pseudo in estimate.pseudo_values]
    mean = Estimate(
        value=value,
        samples=samples,
        block_samples=tuple(blocks),
        without_block=tuple(
            (samples * value - m * pseudo) / (samples - m)
            for m, pseudo in zip(blocks, pseudo_values, strict=True)
        ),
        **_kind(estimates),
    )
    # With more cells, the error of the mean decreases but the bias of each cell stays the same, so
    # test again whether the remaining bias is small enough.
    rest = fmean(estimate._rest for estimate in estimates)
    if mean.features is not None and rest > mean._around(mean._limit).half_width / 2:
        return mean.model_copy(update={"features": None})
    return mean


def _kind(estimates: Sequence[Estimate]) -> dict[str, Any]:
    """Return the fields of `Estimate` that are equal for all cells of a mean.

    Unless every cell can be extrapolated, `features` is None, and the mean is not extrapolated.
    """
    kind = estimates[0].model_dump(include={"copies", "features", "share", "threshold_images"})
    return kind if all(e._extrapolates for e in estimates) else kind | {"features": None}


def spread(values: Sequence[float]) -> Estimate:
    """Return the mean of T ≥ 2 independent values, one per training, with one block per value."""
    total, count = sum(values), len(values)
    return Estimate(
        value=total / count,
        samples=count,
        block_samples=(1,) * count,
        without_block=tuple((total - value) / (count - 1) for value in values),
    )


def combined(value: float, intervals: Sequence[Interval]) -> Interval:
    """Return the interval of a number with several independent errors, whose squares add.

    A mean over T trainings has two errors: the error of sampling from the same weights, with the
    half-width a = t_{B−1} s, and the error of retraining, with the half-width b = t_{T−1} s. The
    interval ± √(a² + b²) covers the sum of both errors with a probability of at least 95 %, for any
    ratio of a and b (Banerjee 1960). docs/notes/intervals.md compares this interval with the method
    of Welch and Satterthwaite. The half-widths below and above the value are combined separately
    (Zou and Donner 2008).
    """
    low = math.hypot(*(each.value - each.low for each in intervals))
    high = math.hypot(*(each.high - each.value for each in intervals))
    return Interval(value, value - low, value + high)


# -- differences -----------------------------------------------------------------------------------


class Difference(NamedTuple):
    """The difference a − b, or a − times · b, between the metrics of two cells, and its errors."""

    value: float
    errors: tuple[tuple[float, float], ...]
    """Independent errors, each as a pair of standard error and degrees of freedom."""
    paired: bool
    """True if both cells have the same noise and are compared block by block."""

    def retrained(self, one: Mapping[str, float], two: Mapping[str, float]) -> Self:
        """Add the error of retraining.

        If both cells have the same trainings, the trainings are paired. If the cells have different
        trainings but equally many, the errors of both cells are added by Welch's method. If the
        numbers of trainings differ, the errors are added as in `combined`, because Welch's degrees
        of freedom would lead to too many significant differences. If only one cell has a single
        training, this training is assumed to vary as much as the trainings of the other cell. If
        both cells have a single training, no error is added, and the difference holds for these
        weights only.

        Args:
            one: the metric of each training of the first cell, by the name of the training.
            two: the same for the second cell.
        """
        if one.keys() == two.keys():
            spreads = [[one[name] - two[name] for name in one]]
        else:
            spreads = [list(side.values()) for side in (one, two)]
        known = [spread(values) for values in spreads if len(values) > 1]
        if len(known) == 2 and len(one) == len(two):
            errors = [_welch(known)]
        else:
            errors = [_welch([each]) for each in known]
        if len(known) == 1 and [len(values) for values in spreads].count(1) == 1:
            errors = [(error * (1 + known[0].samples) ** 0.5, freedom) for error, freedom in errors]
        return self._replace(errors=(*self.errors, *errors))

    @property
    def interval(self) -> Interval:
        """The 95 % interval. Several errors are added as in `combined`."""
        margin = self._half_width(1 - CONFIDENCE)
        return Interval(self.value, self.value - margin, self.value + margin)

    @property
    def p_value(self) -> float:
        """The p-value: the number p for which the interval at the level 1 − p ends at 0."""
        from scipy.optimize import brentq  # Imported late, as in `t_quantile`.

        def excess(log_p: float) -> float:
            return self._half_width(math.exp(log_p)) - abs(self.value)

        # Return 0 for p-values below 10⁻⁸⁷, because SciPy's quantile is NaN for far smaller p.
        least = -200.0
        if self.value == 0:
            return 1.0
        return 0.0 if excess(least) <= 0 else math.exp(cast(float, brentq(excess, least, 0.0)))

    def _half_width(self, p: float) -> float:
        return math.hypot(*(t_quantile(freedom, p) * error for error, freedom in self.errors))


def paired_difference(a: Estimate, b: Estimate, times: float = 1.0) -> Difference:
    """Return a − times · b for cells with the same noise: equal seeds, shards and state shapes.

    The jackknife is applied to the differences without block j, so the samplers may differ. If both
    samplers depend on the noise in the same way, the effect of the noise cancels. If their
    dependence is unrelated, the error equals the error of independent cells.

    Raises UserError if the cells have different blocks.
    """
    if a.block_samples != b.block_samples:
        raise UserError(
            f"cells of {a.samples} samples in {a.blocks} blocks and of {b.samples} in {b.blocks} "
            "cannot be paired; compare equal numbers of samples and blocks"
        )
    difference = Estimate(
        value=a.value - times * b.value,
        samples=a.samples,
        block_samples=a.block_samples,
        without_block=tuple(map(lambda x, y: x - times * y, a.without_block, b.without_block)),
    )
    return Difference(difference.value, (_welch([difference]),), paired=True)


def unpaired_difference(a: Estimate, b: Estimate, times: float = 1.0) -> Difference:
    """Return a − times · b for independent cells with equal n. The squared errors are added."""
    return Difference(a.value - times * b.value, (_welch([a, b], times),), paired=False)


def _welch(estimates: Sequence[Estimate], times: float = 1.0) -> tuple[float, float]:
    """Return the standard error of a sum of independent estimates, and its degrees of freedom.

    The last estimate is multiplied by `times`. The degrees of freedom of Welch and Satterthwaite
    are (Σ s²)² / Σ (s⁴ / (B − 1)). For a single estimate, this is B − 1.
    """
    variances = [each.standard_error**2 for each in estimates]
    variances[-1] *= times**2
    freedoms = [each.blocks - 1 for each in estimates]
    weights = sum(v**2 / f for v, f in zip(variances, freedoms, strict=True))
    freedom = sum(variances) ** 2 / weights if weights else float(sum(freedoms))
    return sum(variances) ** 0.5, freedom


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values of several comparisons after Holm's correction (1979).

    The smallest of m p-values is multiplied by m, the second smallest by m − 1, and so on; each
    result is at least as large as the previous result. At the level 5 %, the probability of at
    least one false finding is then at most 5 %.
    """
    corrected, before = [0.0] * len(p_values), 0.0
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    for factor, index in zip(range(len(order), 0, -1), order, strict=True):
        before = corrected[index] = min(1.0, max(before, factor * p_values[index]))
    return corrected
