"""Kernel distance, Inception Score, precision, recall and memorization, also without each block."""

import numpy as np
import pytest
import torch

from psld.metrics.blocks import Blocks, assign_blocks, block_index, share_estimate
from psld.metrics.distances import (
    inception_score,
    kernel_distance,
    memorization,
    nearest,
    precision,
    recall,
)
from psld.metrics.estimate import Estimate, Finding, t_quantile
from psld.utils.errors import RunError

BLOCKS = 5


def normal(n: int, d: int = 3, seed: int = 0, mean: float = 0.0) -> torch.Tensor:
    return mean + torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def blocks(x: torch.Tensor, count: int = BLOCKS) -> Blocks:
    return assign_blocks(len(x), count)


def without(x: torch.Tensor, block: int) -> torch.Tensor:
    return x[torch.from_numpy(block_index(np.arange(len(x)), BLOCKS)) != block]


def unbiased_mmd(x: torch.Tensor, y: torch.Tensor) -> float:
    def mean(a, b, same):
        values = [
            (float(a[i] @ b[j]) / a.shape[1] + 1) ** 3
            for i in range(len(a))
            for j in range(len(b))
            if not (same and i == j)
        ]
        return sum(values) / len(values)

    return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


def test_the_kernel_distance_of_one_complete_subset_is_the_definition():
    x, y = normal(30, mean=0.3), normal(30, seed=1)
    estimate = kernel_distance(x, y, subsets=1, subset_size=30, blocks=blocks(x))
    assert estimate.value == pytest.approx(unbiased_mmd(x, y), rel=1e-5)
    larger = kernel_distance(x, y, subsets=1, subset_size=1000, blocks=blocks(x))
    assert larger.value == pytest.approx(estimate.value, rel=1e-5), "a smaller set is used whole"
    for block, value in enumerate(estimate.without_block):
        assert value == pytest.approx(unbiased_mmd(without(x, block), y), rel=1e-4)


def test_kernel_distance_is_unbiased():
    """Equal distributions have distance 0 on average, also with few samples."""
    pairs = [(normal(40, seed=2 * i), normal(40, seed=2 * i + 1)) for i in range(200)]
    values = [kernel_distance(*pair, 1, 40, blocks(pair[0])).value for pair in pairs]
    assert abs(np.mean(values)) < 3 * np.std(values) / 200**0.5


def test_the_inception_score_equals_a_score_by_hand():
    """With certain predictions, the score is the number of equally frequent classes, or 1 for one
    class."""
    sure = 1000 * torch.eye(4).repeat(25, 1)
    assert inception_score(sure, 1, blocks(sure)).value == pytest.approx(4)
    assert inception_score(sure[::4], 1, blocks(sure[::4])).value == pytest.approx(1)
    logits = normal(60, 4)
    estimate = inception_score(logits, 1, blocks(logits))
    for block, value in enumerate(estimate.without_block):
        part = without(logits, block)
        rest = inception_score(part, 1, blocks(part, 2))
        assert value == pytest.approx(rest.value, rel=1e-9)


def test_precision_and_recall_equal_values_by_hand():
    """For points 0, 1, 2, … on a line, each radius is 1, the distance to the nearest neighbor."""
    line = torch.arange(40.0)[:, None]
    assert precision(line + 0.5, line, neighbors=1, blocks=blocks(line)).value == 1
    assert precision(line + 20.5, line, neighbors=1, blocks=blocks(line)).value == 0.5
    # The samples are the first half of the line; the ball of the last sample also covers one point
    # of the other half.
    assert recall(line[:20], line, neighbors=1, blocks=blocks(line[:20])).value == 21 / 40


def test_the_rounding_of_float32_changes_no_count():
    """A shift does not change distances, but it would cost three digits in float32."""
    x, y = ((normal(60, 8, seed) * 2**12).round() / 2**12 for seed in (0, 1))
    shifted = precision(x + 1000, y + 1000, 3, blocks(x))
    assert 0.1 < shifted.value < 0.9
    assert shifted == precision(x, y, 3, blocks(x))


@pytest.mark.parametrize("metric", [precision, recall])
def test_precision_and_recall_without_a_block_are_recomputed(metric):
    x, y = normal(60, 2, mean=0.5), normal(80, 2, seed=1)
    estimate = metric(x, y, 3, blocks(x))
    assert 0.1 < estimate.value < 1
    for block, value in enumerate(estimate.without_block):
        part = without(x, block)
        rest = metric(part, y, 3, blocks(part, 2))
        assert value == pytest.approx(rest.value, abs=1e-12)


def test_a_fraction_has_wilsons_interval():
    """An end p of the interval has the distance t (p (1 − p) / n')^½ from the fraction. So the
    interval of a fraction of 1 has a positive width."""
    rests = (0.92, 0.88, 0.91, 0.89, 0.9)
    estimate = Estimate(
        value=0.9, samples=50, block_samples=(10,) * 5, without_block=rests, share=True
    )
    inverse = estimate.standard_error**2 / 0.09
    for end in estimate.interval[1:]:
        assert abs(0.9 - end) == pytest.approx(t_quantile(4) * (end * (1 - end) * inverse) ** 0.5)
    every = share_estimate(torch.ones(1000, dtype=torch.bool), assign_blocks(1000))
    low, high = every.interval[1:]
    assert high == 1
    assert low == pytest.approx(1 / (1 + t_quantile(19) ** 2 / 1000))
    none = share_estimate(torch.zeros(1000), assign_blocks(1000))
    assert (every.value, none.interval.low) == (1, 0)
    # A threshold from N images contributes the error of another sample of N images.
    low = share_estimate(torch.ones(1000), assign_blocks(1000), 250).interval.low
    assert low == pytest.approx(1 / (1 + t_quantile(19) ** 2 * (1 / 1000 + 1 / 250)))
    copies = Estimate(**(every.model_dump() | {"copies": 900}))
    assert copies.interval.low == pytest.approx(1 / (1 + t_quantile(19) ** 2 / 100))


def test_too_few_samples_raise_an_error():
    few = normal(8)
    with pytest.raises(ValueError, match="must be finite"):
        kernel_distance(few, few, 100, 2, blocks(few, 20))
    with pytest.raises(ValueError, match="must be finite"):
        inception_score(few, 8, blocks(few, 2))
    with pytest.raises(RuntimeError, match="out of range"):
        precision(few, few, 8, blocks(few))
    with pytest.raises(RuntimeError, match="out of range"):
        recall(few, few, 5, blocks(few, 2))


TRAIN, TEST, NEW = normal(500, 4), normal(1000, 4, seed=1), normal(400, 4, seed=2)


def memorized(samples: torch.Tensor, test: torch.Tensor = TEST, quantile: float = 0.05) -> Finding:
    return memorization(samples, TRAIN, test, quantile, assign_blocks(len(samples)))


def test_the_fraction_of_new_images_is_the_quantile():
    result = memorized(NEW, quantile=0.2)
    assert result.estimate.interval.low < 0.2 < result.estimate.interval.high
    distances = (NEW[:, None] - TRAIN).double().norm(dim=2)
    found, index = nearest(NEW, TRAIN)
    torch.testing.assert_close(found, distances.min(dim=1).values)
    assert torch.equal(index, distances.argmin(dim=1))
    threshold = np.quantile(nearest(TEST, TRAIN)[0], 0.2, method="weibull")
    assert result.estimate.value == (found < threshold).double().mean()


def test_the_threshold_is_the_distance_of_an_image_which_is_not_below_it():
    """The threshold has rank (N + 1) · quantile, so 9 of 99 test images are below the tenth."""
    for quantile, nearer in ((0.1, 9), (0.105, 10)):
        result = memorized(TEST[:99], TEST[:99], quantile)
        assert result.estimate.value == pytest.approx(nearer / 99)
        assert result.estimate.threshold_images == 99


def test_copies_of_the_reference_have_precision_and_recall_1():
    """With five copies of each image, all radii are 0, and each image is the center of a ball."""
    images = normal(20).repeat(6, 1)
    for metric in (precision, recall):
        assert metric(images, images, 3, blocks(images)).value == 1


def test_memorization_counts_copies_and_names_the_originals():
    samples = NEW.clone()
    samples[7], samples[300] = TRAIN[123], TRAIN[45] + 1e-3
    samples[50:150] = TRAIN[:100] + 1e-2
    before, after = (memorized(x) for x in (NEW, samples))
    assert after.estimate.value == pytest.approx(before.estimate.value + 102 / 400, abs=0.03)
    assert after.estimate.interval.low > 0.05
    assert after.nearest[:2] == [(7, 123), (300, 45)]
    assert len(after.nearest) == 8
    assert set(after.nearest[2:]) < {(50 + i, i) for i in range(100)}


@pytest.mark.parametrize("rounding", [0, 1e-6])
def test_memorization_is_void_if_test_images_are_training_images(rounding):
    """Features of equal images may be rounded differently with other threads or batches."""
    test = TEST.clone()
    test[:60] = TRAIN[:60] + rounding
    result = memorized(TRAIN[100:200], test)
    assert result.void.startswith("6.0% of the test images equal a training image, so copies ")
    test[15:60] = TEST[15:60]
    result = memorized(TRAIN[100:200], test)
    assert (result.estimate.value, result.void) == (1, None)


def test_nan_features_are_refused_by_neighbor_measures():
    x, y = normal(30), normal(40, seed=1)
    broken = x.clone()
    broken[3, 1] = torch.nan
    for samples, reference in ((broken, y), (y, broken)):
        given = samples, reference, 3, blocks(samples)
        for measure in (precision, recall):
            with pytest.raises(RunError, match="NaN"):
                measure(*given)
        with pytest.raises(RunError, match="NaN"):
            memorization(samples, reference, y, 0.05, blocks(samples))
