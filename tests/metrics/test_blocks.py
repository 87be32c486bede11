"""Blocks of samples: cut by index, added exactly, stored as tensors."""

import numpy as np
import pytest
import torch

from psld.metrics.distances import frechet_distance, frechet_estimate
from psld.metrics.features import BLOCKS, BlockStatistics, block_index
from psld.utils.errors import UserError
from tests.metrics.test_frechet import gather, random_features


def blocks_of(*parts: torch.Tensor, first: int = 0) -> BlockStatistics:
    statistics = BlockStatistics(parts[0].shape[1])
    for part in parts:
        statistics.update(part, first)
        first += len(part)
    return statistics


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


@pytest.mark.parametrize("cuts", [[1], [250], [7, 8, 300], list(range(10, 500, 10))])
def test_any_shards_in_any_order_agree(cuts):
    x = random_features(500, 6, 1)
    whole, total = blocks_of(x), BlockStatistics(6)
    for part, first in reversed(list(zip(x.tensor_split(cuts), [0, *cuts], strict=True))):
        total.update(part, first)
    assert total.counts == whole.counts
    for mine, theirs in zip(total.blocks, whole.blocks, strict=True):
        torch.testing.assert_close(mine.outer, theirs.outer, rtol=1e-12, atol=1e-12)


def test_total_and_rests_are_those_of_the_samples():
    x = random_features(300, 5, 1)
    statistics = blocks_of(x)
    torch.testing.assert_close(statistics.total.covariance, gather(x).covariance)
    block = torch.from_numpy(block_index(np.arange(300)))
    for j, rest in enumerate(statistics.without_each()):
        torch.testing.assert_close(rest.covariance, gather(x[block != j]).covariance)


def test_tensors_give_back_the_distances():
    samples, reference = blocks_of(100 + random_features(900, 16, 1)), random_features(900, 16, 2)
    loaded = BlockStatistics.from_tensors(samples.tensors())
    assert loaded.counts == samples.counts
    reference = gather(100 + reference)
    expected = frechet_distance(samples.total, reference)
    assert frechet_distance(loaded.total, reference) == pytest.approx(expected, rel=1e-12)


def test_few_samples_fill_few_blocks_and_still_give_an_interval():
    """As in a rehearsal of a grid: the jackknife then leaves out single samples."""
    few = blocks_of(random_features(7, 3, 1))
    loaded = BlockStatistics.from_tensors(few.tensors())
    assert loaded.counts == few.counts
    estimate = frechet_estimate(loaded, gather(random_features(9, 3, 2)))
    assert estimate.block_samples == (1,) * 7
    assert estimate.interval.low < estimate.value < estimate.interval.high
    with pytest.raises(UserError, match="at least 2 are needed"):
        frechet_estimate(blocks_of(random_features(2, 3, 1)), gather(random_features(9, 3, 2)))


def test_an_interval_needs_two_blocks():
    with pytest.raises(UserError, match="at least 2 blocks"):
        BlockStatistics(3, blocks=1)
