"""Comparisons of two cells, and of a number with a band. This module does not import torch."""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Literal, NamedTuple, Self

from psld.metrics.estimate import CONFIDENCE, Estimate, Interval, spread, t_quantile
from psld.utils.errors import UserError

POWER = 0.8


class Difference(NamedTuple):
    """The difference a − b of one metric of two cells, with its significance."""

    value: float
    errors: tuple[tuple[float, float], ...]
    """Independent errors that add: each a standard error with its degrees of freedom. None for
    counts of single trainings, which are compared as they are."""
    paired: bool
    """True if the cells share their noise and were compared block by block."""

    def retrained(self, one: Mapping[str, float], two: Mapping[str, float]) -> Self:
        """Add the error of training again, from both cells' numbers of their trainings by name.

        The same trainings are paired. With as many others, the spreads add as Welch's; with
        another number of them, as in `combined`, because Welch's degrees of freedom then find too
        many differences. A single training is taken to vary as much as those of the other cell.
        Two single ones add nothing: the difference is of these weights.
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
            [(error, freedom)] = errors
            errors = [(error * (1 + known[0].samples) ** 0.5, freedom)]
        return self._replace(errors=(*self.errors, *errors))

    @property
    def interval(self) -> Interval:
        """The 95 % interval; several errors add as in `combined`."""
        margin = self._half_width(1 - CONFIDENCE)
        return Interval(self.value, self.value - margin, self.value + margin)

    @property
    def p_value(self) -> float:
        """The p for which the interval with the confidence 1 − p ends at 0."""
        # Importing SciPy takes a quarter of a second, and reading results does not need it.
        from scipy.optimize import brentq

        def excess(log_p: float) -> float:
            return self._half_width(math.exp(log_p)) - abs(self.value)

        least = -200.0  # 10⁻⁸⁷: smaller ones are 0, and far below it SciPy's quantile is NaN
        if self.value == 0:
            return 1.0
        return 0.0 if excess(least) <= 0 else math.exp(brentq(excess, least, 0.0))

    def _half_width(self, p: float) -> float:
        return math.hypot(*(t_quantile(freedom, p) * error for error, freedom in self.errors))


def paired_difference(a: Estimate, b: Estimate) -> Difference:
    """Return a − b for cells whose samples i have the same noise: same seed, shards and state.

    The jackknife is of the difference itself, with its values without block j, a_(−j) − b_(−j). So
    the samplers may differ: if they make the same of the noise, its effect cancels; if not, the
    error is that of independent cells. Raises UserError if the cells have different blocks.
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
    return Difference(difference.value, (_welch([difference]),), paired=True)


def unpaired_difference(a: Estimate, b: Estimate) -> Difference:
    """Return a − b for independent cells, with s² = s_a² + s_b²; compare cells of equal n."""
    return Difference(a.value - b.value, (_welch([a, b]),), paired=False)


def _welch(estimates: Sequence[Estimate]) -> tuple[float, float]:
    """Return the error of a sum of independent estimates, and its degrees of freedom.

    These are those of Welch and Satterthwaite, (Σ s²)² / Σ (s⁴ / (B − 1)): for one estimate B − 1.
    """
    variances = [each.standard_error**2 for each in estimates]
    freedoms = [each.blocks - 1 for each in estimates]
    weights = sum(v**2 / f for v, f in zip(variances, freedoms, strict=True))
    freedom = sum(variances) ** 2 / weights if weights else float(sum(freedoms))
    return sum(variances) ** 0.5, freedom


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values of several comparisons after Holm's correction (1979).

    The smallest of m is multiplied by m, the next one by m − 1, and so on; none is made smaller
    than the one before. Then any wrong finding at all has a probability of at most 5 %.
    """
    corrected, before = [0.0] * len(p_values), 0.0
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    for factor, index in zip(range(len(order), 0, -1), order, strict=True):
        before = corrected[index] = min(1.0, max(before, factor * p_values[index]))
    return corrected


def place_in_band(
    interval: Interval, low: float, high: float
) -> Literal["inside", "outside", "overlap"]:
    """Compare an interval, or a number as an interval of width 0, with the band [low, high].

    Only a whole interval is `inside` or `outside`.
    """
    if low <= interval.low and interval.high <= high:
        return "inside"
    return "outside" if interval.high < low or interval.low > high else "overlap"


def samples_to_decide(
    interval: Interval, samples: int, low: float, high: float, fixed: float = 0.0
) -> int | None:
    """Return the number of *additional* samples that decide if a value is in the band [low, high].

    It is 0 if the interval does not overlap the band in part, and None if no number is enough. The
    half-width w of n samples shrinks as 1/√n; v of training again, `fixed`, does not. With δ the
    distance of the value from the nearer end of the band, the interval of n' samples in all clears
    this end with the probability P if

        √(w² n / n' + v²) = δ z_0.975 / (z_0.975 + z_P),        z_0.975 = 1.96

    A decision has a power of 80 %: outside the band one end has to be cleared, with z_0.8 = 0.84.
    Inside, both have to be, each with 90 %: z_0.9 = 1.28.

    Get the samples as further seeds: a larger n in one cell would change its bias. Choose the
    number before: to stop at the first verdict makes more of them wrong.
    """
    if place_in_band(interval, low, high) != "overlap":
        return 0
    power = (1 + POWER) / 2 if low <= interval.value <= high else POWER
    z, z_power = map(NormalDist().inv_cdf, ((1 + CONFIDENCE) / 2, power))
    distance = min(abs(interval.value - end) for end in (low, high)) * z / (z + z_power)
    if distance <= fixed:
        return None
    narrows = max(interval.half_width**2 - fixed**2, 0.0)
    return max(1, math.ceil(samples * narrows / (distance**2 - fixed**2)) - samples)
