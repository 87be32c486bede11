"""Estimates over several seeds, against closed forms."""

from statistics import fmean, stdev

import numpy as np
import pytest
from scipy.stats import t

from psld.metrics.estimate import Estimate, averaged, pooled, spread


def estimate_of_mean(samples: np.ndarray, blocks: int) -> Estimate:
    """The mean of samples, whose jackknife is exact, in blocks of unequal size."""
    parts = np.array_split(samples, blocks)
    total = samples.sum()
    return Estimate(
        value=total / len(samples),
        samples=len(samples),
        block_samples=tuple(map(len, parts)),
        without_block=tuple((total - p.sum()) / (len(samples) - len(p)) for p in parts),
    )


def test_pooled_cells_are_one_cell_of_all_samples():
    cells = np.random.default_rng(0).normal(3, 1, (3, 95))
    together = pooled([estimate_of_mean(cell, 10) for cell in cells])
    everything = estimate_of_mean(cells.ravel(), 30)
    assert together.samples == 285
    # Blocks of 10 and 9 samples come in another order.
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


def test_the_extrapolation_of_pooled_cells_is_the_mean_of_theirs():
    cells = [
        Estimate(value=v, samples=10, block_samples=(5, 5), without_block=(v + 1, v + 2))
        for v in (1.0, 3.0)
    ]
    limits = [cell.extrapolated.value for cell in cells]
    assert pooled(cells).extrapolated.value == pytest.approx(fmean(limits))


def test_the_spread_of_trainings_is_a_t_interval():
    values = [2.0, 2.5, 2.2]
    estimate = spread(values)
    margin = t.ppf(0.975, 2) * stdev(values) / 3**0.5
    assert estimate.interval == pytest.approx(
        (fmean(values), fmean(values) - margin, fmean(values) + margin)
    )
