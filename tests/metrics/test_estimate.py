"""Estimates: coverage on Gaussians with a known Fréchet distance, comparisons, several seeds."""

import math
from statistics import fmean, stdev

import numpy as np
import pytest
import torch
from scipy.stats import t

from psld.metrics.blocks import assign_blocks
from psld.metrics.distances import frechet_distance, frechet_estimate
from psld.metrics.estimate import (
    Difference,
    Estimate,
    Interval,
    averaged,
    combined,
    holm,
    paired_difference,
    pooled,
    spread,
    unpaired_difference,
)
from psld.metrics.features import BlockMoments, FeatureStatistics
from psld.utils.errors import UserError
from tests.metrics.test_frechet import gather, gaussian

DRAWS = 200
SCALES = torch.linspace(0.5, 1.5, 4, dtype=torch.float64)
REFERENCE = gaussian(torch.zeros(4), torch.eye(4))
TRUTH = (0.3**2 * 4 + (SCALES - 1).square().sum()).item()
"""The Fréchet distance of N(0.3, diag σ²) and N(0, I): |μ|² + Σ (σ − 1)²."""


def draw(seed: int, n: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return 0.3 + SCALES * torch.randn(n, 4, generator=random, dtype=torch.float64)


def estimate(x: torch.Tensor, reference: FeatureStatistics = REFERENCE) -> Estimate:
    return frechet_estimate(BlockMoments(assign_blocks(len(x))).add(x), reference)


def coverage(intervals: list[Interval], truth: float) -> float:
    return np.mean([i.low <= truth <= i.high for i in intervals])


@pytest.fixture(scope="module")
def estimates() -> list[Estimate]:
    return [estimate(draw(seed, 150)) for seed in range(DRAWS)]


def test_intervals_have_their_coverage_and_extrapolation_removes_the_bias(estimates):
    """Intervals cover the mean distance at n, or the distance between the distributions."""
    values = np.array([e.value for e in estimates])
    limits = np.array([e.extrapolated.value for e in estimates])
    assert 0.90 <= coverage([e.interval for e in estimates], values.mean()) <= 0.99
    assert 0.90 <= coverage([e.extrapolated for e in estimates], TRUTH) <= 0.99
    noise = limits.std() / DRAWS**0.5
    assert abs(limits.mean() - TRUTH) < 3 * noise
    assert values.mean() - TRUTH > 5 * noise


def test_equal_cells_differ_significantly_in_five_percent_of_pairs(estimates):
    pairs = zip(estimates[::2], estimates[1::2], strict=True)
    assert 0.01 <= np.mean([unpaired_difference(*pair).p_value < 0.05 for pair in pairs]) <= 0.10


def test_fewer_than_four_samples_for_each_feature_are_not_extrapolated():
    sixteen, fifteen = (estimate(draw(0, n)) for n in (16, 15))
    assert sixteen.extrapolated
    assert fifteen.extrapolated is None
    assert averaged([sixteen, sixteen]).extrapolated == sixteen.extrapolated
    assert pooled([fifteen, fifteen]).extrapolated is None  # with the bias of 15 samples
    biased = Estimate(**(sixteen.model_dump() | {"copies": 1}))
    assert biased.extrapolated is None, "a copy is no further sample"
    for cells in ([sixteen, biased], [biased, sixteen]):
        assert averaged(cells).extrapolated is None, "both need enough"


def test_the_reference_images_have_no_extrapolated_distance():
    x = draw(0, 2000)
    assert estimate(x, gather(x)).extrapolated is None


def test_extrapolation_is_the_intercept_in_1_over_n():
    """FID∞ of Chong and Forsyth: a line through the distances for 15 numbers of samples."""
    random = torch.Generator().manual_seed(0)
    x = 1.05 * torch.randn(2000, 24, generator=random, dtype=torch.float64)
    reference = gaussian(torch.zeros(24), torch.eye(24))
    sizes = (1 / np.linspace(1 / 2000, 1 / 500, 15)).astype(int)

    def distance(n: int) -> float:
        return frechet_distance(gather(x[torch.randperm(2000, generator=random)[:n]]), reference)

    intercept = np.polyfit(1 / sizes, [distance(n) for n in sizes], 1)[1]
    ours = estimate(x, reference)
    bias = ours.value - intercept
    assert bias > 0.05
    assert ours.extrapolated.value == pytest.approx(intercept, abs=0.1 * bias)


def test_the_jackknife_of_a_mean_gives_the_textbook_error():
    """For a mean, the jackknife is exact: there is no bias, and s² = Σ_j (x̄_j − x̄)² / B(B − 1)."""
    x = np.random.default_rng(0).normal(size=(10, 7))
    total = Estimate(
        value=x.mean(),
        samples=70,
        block_samples=(7,) * 10,
        without_block=tuple(np.delete(x, j, axis=0).mean() for j in range(10)),
    )
    assert total.standard_error == pytest.approx(x.mean(axis=1).std(ddof=1) / 10**0.5)
    assert total.extrapolated is None
    assert total.interval.half_width == pytest.approx(2.2622 * total.standard_error, rel=1e-4)


def test_an_estimate_is_stored_as_json_and_validated():
    record = estimate(draw(0, 200))
    assert Estimate.model_validate_json(record.model_dump_json()) == record
    nonsense = [{"samples": 201}, {"block_samples": (0, 200), "without_block": (1.0, 1.0)}]
    for changes in nonsense:
        with pytest.raises(ValueError, match="positive and add up to samples"):
            Estimate.model_validate(record.model_dump() | changes)


def test_a_cell_is_compared_with_a_multiple_of_another():
    """Squared errors add up, after the error of `larger` is multiplied by `times`; Welch's formula
    gives the degrees of freedom."""
    random, times = np.random.default_rng(0), 3.0
    a, b = (estimate_of_mean(random.normal(size=count), 20) for count in (100, 60))
    unpaired, paired = (
        unpaired_difference(a, b, times),
        paired_difference(a, estimate_of_mean(random.normal(size=100), 20), times),
    )
    [(error, freedom)] = unpaired.errors
    squares = [a.standard_error**2, (times * b.standard_error) ** 2]
    assert unpaired.value == pytest.approx(a.value - times * b.value)
    assert error == pytest.approx(sum(squares) ** 0.5)
    assert freedom == pytest.approx(sum(squares) ** 2 / sum(v**2 / 19 for v in squares))
    same = paired_difference(a, a, times)
    assert same.errors == ((pytest.approx(abs(1 - times) * a.standard_error, abs=1e-12), 19),)
    assert (paired.paired, unpaired.paired) == (True, False)


def test_holm_corrects_p_values_and_keeps_their_order():
    assert holm([0.01, 0.02, 0.02]) == pytest.approx([0.03, 0.04, 0.04])
    assert holm([0.02, 0.9, 0.01, 0.5]) == pytest.approx([0.06, 1.0, 0.04, 1.0])
    assert holm([0.03]) == [0.03]


def test_a_cell_does_not_differ_from_itself_and_other_blocks_cannot_be_paired():
    a = estimate(draw(0, 200))
    assert paired_difference(a, a).p_value == 1
    with pytest.raises(UserError, match="cannot be paired"):
        paired_difference(a, estimate(draw(0, 201)))


# -- several seeds, compared with closed forms ----------------------------------------------------


def estimate_of_mean(samples: np.ndarray, blocks: int) -> Estimate:
    """Return the mean of samples in blocks of unequal size; the jackknife of a mean is exact."""
    parts = np.array_split(samples, blocks)
    total = samples.sum()
    return Estimate(
        value=total / len(samples),
        samples=len(samples),
        block_samples=tuple(map(len, parts)),
        without_block=tuple((total - p.sum()) / (len(samples) - len(p)) for p in parts),
    )


def test_pooled_cells_equal_one_cell_with_all_samples():
    cells = np.random.default_rng(0).normal(3, 1, (3, 95))
    together = pooled([estimate_of_mean(cell, 10) for cell in cells])
    everything = estimate_of_mean(cells.ravel(), 30)
    assert together.samples == 285
    # The order of blocks of 10 and 9 samples is reversed.
    assert together.value == pytest.approx(everything.value)
    assert together.standard_error == pytest.approx(everything.standard_error, rel=0.1)
    equal = pooled([estimate_of_mean(cell[:90], 10) for cell in cells])
    whole = estimate_of_mean(cells[:, :90].ravel(), 30)
    assert equal.standard_error == pytest.approx(whole.standard_error)
    assert equal.interval == pytest.approx(whole.interval)


def test_a_common_effect_of_the_noise_stays_in_the_error_of_an_average():
    noise, other = np.random.default_rng(1).normal(0, 1, (2, 100))
    a, b, c = (estimate_of_mean(x, 20) for x in (noise, noise + 1, other))
    assert averaged([a, b]).value == pytest.approx(a.value + 0.5)
    assert averaged([a, b]).standard_error == pytest.approx(a.standard_error)
    assert averaged([a, c]).standard_error == pytest.approx(
        estimate_of_mean((noise + other) / 2, 20).standard_error
    )


def test_the_extrapolation_of_pooled_cells_is_the_mean_of_the_extrapolations():
    cells = [
        Estimate(
            value=v, samples=10, block_samples=(5, 5), without_block=(v + 1, v + 2), features=2
        )
        for v in (1.0, 3.0)
    ]
    limits = [cell.extrapolated.value for cell in cells]
    assert pooled(cells).extrapolated.value == pytest.approx(fmean(limits))


def test_more_cells_do_not_shrink_the_bias_of_second_order():
    """If one cell may be extrapolated, a mean of many cells may not, because it has a smaller error
    but the same bias."""
    without = tuple(5.0 + 0.01 * (-1) ** block for block in range(20))
    cell = Estimate(
        value=4.95, samples=400, block_samples=(20,) * 20, without_block=without, features=45
    )
    assert cell.extrapolated
    assert pooled([cell, cell]).extrapolated
    assert pooled([cell] * 16).extrapolated is None


@pytest.mark.parametrize(("share", "is_given"), [(0.45, True), (0.75, False)])
def test_a_bias_of_second_order_is_at_most_half_of_the_half_width(share, is_given):
    """The error of the extrapolation is 0.2 d/n of the subtracted bias, here 0.2 · 45/400 of a bias
    of 1."""
    bias, half = 1.0, 0.2 * 45 / 400 / share
    shift = half / 2.093 / 19**0.5
    without = tuple(5.0 + bias / 19 + shift * (-1) ** block for block in range(20))
    cell = Estimate(
        value=5.0, samples=400, block_samples=(20,) * 20, without_block=without, features=45
    )
    assert cell._limit == pytest.approx(4.0)
    assert cell.interval.half_width == pytest.approx(half, rel=1e-3)
    assert (cell.extrapolated is not None) == is_given


def test_the_spread_of_trainings_is_a_t_interval():
    values = [2.0, 2.5, 2.2]
    estimate = spread(values)
    margin = t.ppf(0.975, 2) * stdev(values) / 3**0.5
    assert estimate.interval == pytest.approx(
        (fmean(values), fmean(values) - margin, fmean(values) + margin)
    )


def test_errors_of_samples_and_of_trainings_add():
    drawn, trained = Interval(0.9, 0.86, 0.92), Interval(0.9, 0.87, 0.93)
    assert combined(0.9, [drawn, trained]) == pytest.approx((0.9, 0.85, 0.9 + 0.0013**0.5))
    a, b = (estimate_of_mean(np.random.default_rng(seed).normal(size=100), 20) for seed in (0, 1))
    drawn = unpaired_difference(a, b)
    difference = drawn.retrained({"a0": 1.0, "a1": 1.3}, {"b0": 2.0, "b1": 2.1})
    (error, _), (again, freedom) = difference.errors
    assert again == pytest.approx((0.15**2 + 0.05**2) ** 0.5)
    assert 1 <= freedom <= 2
    widths = [t.ppf(0.975, f) * s for s, f in difference.errors]
    assert difference.interval.half_width == pytest.approx(np.hypot(*widths))
    # If an end of the interval is 0, the p-value is 5 %.
    edge = difference._replace(value=difference.interval.half_width)
    assert edge.p_value == pytest.approx(0.05)
    assert unpaired_difference(a, b)._replace(value=error).p_value == pytest.approx(
        2 * t.sf(1, unpaired_difference(a, b).errors[0][1])
    )
    assert difference._replace(value=1e300).p_value == 0


def test_every_difference_has_a_p_value():
    """For three trainings against three other trainings, Welch's degrees of freedom are between 2
    and 4."""
    random = np.random.default_rng(0)
    freedoms = random.uniform(1, 8, 1000)
    for size, freedom in zip(random.lognormal(sigma=2.0, size=1000), freedoms, strict=True):
        difference = Difference(size, ((1.0, 19.0), (random.lognormal(), freedom)), paired=True)
        p_value = difference.p_value
        assert 0 <= p_value <= 1
        assert (p_value < 0.05) == (difference.interval.low > 0)


def test_retraining_adds_its_error_to_a_difference():
    """Equal trainings are paired. A single training is assumed to vary as much as the trainings of
    the other cell."""
    drawn = Difference(1.0, ((0.1, 19.0),), paired=False)

    def added(one: list[float], two: list[float], names: str = "xyz") -> list[tuple[float, float]]:
        sides = dict(zip("abc", one, strict=False)), dict(zip(names, two, strict=False))
        [first, *errors] = drawn.retrained(*sides).errors
        assert first == (0.1, 19.0)
        return errors

    three, other = [1.0, 2.0, 4.0], [1.1, 2.2, 4.0]
    [(paired, freedom)] = added(three, other, names="abc")
    assert (paired, freedom) == (pytest.approx(stdev([0.1, 0.2, 0.0]) / 3**0.5), 2)
    [(welch, freedom)] = added(three, other)
    assert welch == pytest.approx(math.hypot(stdev(three), stdev(other)) / 3**0.5)
    assert 2 < freedom <= 4
    assert added(three, [1.0, 3.0]) == [
        (pytest.approx(stdev(three) / 3**0.5), pytest.approx(2)),
        (pytest.approx(1.0), pytest.approx(1)),
    ]
    assert added([1.0], [2.0]) == [], "the difference is of these weights"
    assert added([1.0], [2.0], names="abc") == []
    for sides in ((three, [5.0]), ([5.0], three)):
        assert added(*sides) == [(pytest.approx(stdev(three) * (4 / 3) ** 0.5), pytest.approx(2))]
    assert added(three, []) == [(pytest.approx(stdev(three) / 3**0.5), pytest.approx(2))]
