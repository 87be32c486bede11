"""Statistics of features, whole and in blocks: NumPy's, for any cut into batches and shards."""

import numpy as np
import pytest
import torch

from psld.metrics.distances import frechet_distance, frechet_estimate
from psld.metrics.features import BLOCKS, BlockStatistics, FeatureStatistics, block_index
from psld.utils.errors import UserError
from tests.metrics.test_frechet import gather, random_features


def in_blocks(x: torch.Tensor) -> BlockStatistics:
    statistics = BlockStatistics(x.shape[1])
    statistics.update(x)
    return statistics


def test_mean_and_covariance_are_numpys():
    x = random_features(500, 7, 0)
    statistics = gather(x)
    np.testing.assert_allclose(statistics.mean, x.double().mean(0), rtol=1e-12)
    np.testing.assert_allclose(statistics.covariance, np.cov(x.double().numpy().T), rtol=1e-11)


@pytest.mark.parametrize("cuts", [[1], [250], [1, 2, 3, 499], list(range(10, 500, 10))])
def test_any_partition_in_any_order_agrees(cuts):
    x = random_features(500, 7, 0)
    whole, blocks, again = gather(x), in_blocks(x), BlockStatistics(7)
    parts = [gather(part) for part in x.tensor_split(cuts)]
    for order in (parts, parts[::-1]):
        total = sum(order[1:], start=order[0])
        assert total.count == 500
        np.testing.assert_allclose(total.covariance, whole.covariance, rtol=1e-11)
    for part, first in reversed(list(zip(x.tensor_split(cuts), [0, *cuts], strict=True))):
        again.update(part, first)
    assert again.counts == blocks.counts
    for one, other in zip(again.blocks, blocks.blocks, strict=True):
        torch.testing.assert_close(one.outer, other.outer, rtol=1e-12, atol=1e-12)


def test_adding_leaves_the_terms_alone_and_subtracting_undoes_it():
    a, b = gather(random_features(10, 7, 0)), gather(random_features(20, 7, 1))
    whole = a + b
    assert (whole.count, a.count, b.count) == (30, 10, 20)
    np.testing.assert_allclose((whole - b).covariance, a.covariance, rtol=1e-10)


def test_too_few_samples_and_mixed_dimensions_are_user_errors():
    with pytest.raises(UserError, match="at least 2"):
        _ = gather(random_features(1, 7, 0)).covariance
    with pytest.raises(UserError, match="at least 1"):
        _ = FeatureStatistics(3).mean
    with pytest.raises(UserError, match="different extractors"):
        gather(random_features(9, 3, 0)) + gather(random_features(9, 4, 0))
    with pytest.raises(UserError, match="at least 2 blocks"):
        BlockStatistics(3, blocks=1)


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


def test_total_and_rests_are_those_of_the_samples():
    x = random_features(300, 5, 1)
    statistics = in_blocks(x)
    torch.testing.assert_close(statistics.total.covariance, gather(x).covariance)
    block = torch.from_numpy(block_index(np.arange(300)))
    for j, rest in enumerate(statistics.without_each()):
        torch.testing.assert_close(rest.covariance, gather(x[block != j]).covariance)


def test_tensors_give_back_the_distances():
    samples = in_blocks(100 + random_features(900, 16, 1))
    reference = gather(100 + random_features(900, 16, 2))
    loaded = BlockStatistics.from_tensors(samples.tensors())
    assert loaded.counts == samples.counts
    expected = frechet_distance(samples.total, reference)
    assert frechet_distance(loaded.total, reference) == pytest.approx(expected, rel=1e-12)


def test_few_samples_fill_few_blocks_and_still_give_an_interval():
    """As in a rehearsal of a grid: the jackknife then leaves out single samples."""
    few = in_blocks(random_features(7, 3, 1))
    loaded = BlockStatistics.from_tensors(few.tensors())
    assert loaded.counts == few.counts
    estimate = frechet_estimate(loaded, gather(random_features(9, 3, 2)))
    assert estimate.block_samples == (1,) * 7
    assert estimate.interval.low < estimate.value < estimate.interval.high
    with pytest.raises(UserError, match="at least 2 are needed"):
        frechet_estimate(in_blocks(random_features(2, 3, 1)), gather(random_features(9, 3, 2)))
