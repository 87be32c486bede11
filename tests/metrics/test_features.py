"""Statistics of features, whole and in blocks: NumPy's, for any cut into batches and shards."""

import numpy as np
import pytest
import torch

from psld.metrics.distances import frechet_distance, frechet_estimate
from psld.metrics.features import BLOCKS, block_index
from psld.utils.errors import UserError
from tests.metrics.test_frechet import gather, random_features


def test_mean_and_covariance_are_numpys():
    x = random_features(500, 7, 0)
    statistics = gather(x)
    np.testing.assert_allclose(statistics.mean, x.double().mean(0), rtol=1e-12)
    np.testing.assert_allclose(statistics.covariance, np.cov(x.double().numpy().T), rtol=1e-11)


@pytest.mark.parametrize("cuts", [[1], [250], [1, 2, 3, 499], list(range(10, 500, 10))])
def test_any_partition_in_any_order_agrees(cuts):
    x = random_features(500, 7, 0)
    parts = [gather(part) for part in x.tensor_split(cuts)]
    for order in (parts, parts[::-1]):
        total = sum(order[1:], start=order[0])
        assert total.count == 500
        np.testing.assert_allclose(total.covariance, gather(x).covariance, rtol=1e-11)


def test_adding_leaves_the_terms_alone_and_subtracting_undoes_it():
    a, b = gather(random_features(10, 7, 0)), gather(random_features(20, 7, 1))
    whole = a + b
    assert (whole.count, a.count, b.count) == (30, 10, 20)
    np.testing.assert_allclose((whole - b).covariance, a.covariance, rtol=1e-10)


def test_too_few_samples_are_user_errors():
    with pytest.raises(UserError, match="at least 2"):
        _ = gather(random_features(1, 7, 0)).covariance


@pytest.mark.parametrize("n", [200, 1000, 50_000])
def test_blocks_are_of_nearly_equal_size(n):
    sizes = np.bincount(block_index(np.arange(n)), minlength=BLOCKS)
    assert sizes.max() - sizes.min() <= 6


@pytest.mark.parametrize("classes", [2, 10, 20, 100])
def test_each_block_has_its_share_of_cycling_labels(classes):
    index = np.arange(10_000)
    for label in (0, 1):
        counts = np.bincount(block_index(index[index % classes == label]), minlength=BLOCKS)
        assert counts.max() - counts.min() <= 6


def test_a_block_depends_on_the_index_alone():
    assert np.array_equal(block_index(np.arange(500))[123:], block_index(np.arange(123, 500)))
    assert block_index(np.array([10**12]))[0] in range(BLOCKS)


def test_few_samples_fill_few_blocks_and_still_give_an_interval():
    """As in a rehearsal of a grid: the jackknife then leaves out single samples."""
    reference = gather(random_features(9, 3, 2))
    estimate = frechet_estimate(random_features(7, 3, 1), reference)
    assert estimate.block_samples == (1,) * 7
    assert estimate.interval.low < estimate.value < estimate.interval.high
    with pytest.raises(UserError, match="at least 2 are needed"):
        frechet_estimate(random_features(2, 3, 1), reference)


def test_a_distance_without_a_block_is_that_of_the_other_samples():
    x, reference = random_features(300, 5, 1), gather(random_features(300, 5, 2))
    block = torch.from_numpy(block_index(np.arange(300)))
    estimate = frechet_estimate(x, reference)
    assert estimate.value == pytest.approx(frechet_distance(gather(x), reference))
    for j, value in enumerate(estimate.without_block):
        rest = frechet_distance(gather(x[block != j]), reference)
        assert value == pytest.approx(rest, rel=1e-9)
