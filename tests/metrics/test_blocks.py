"""Blocks of samples: cut by index, merged exactly, stored with a digest."""

import numpy as np
import pytest
import torch

from psld.metrics.blocks import BLOCKS, BlockStatistics, block_of
from psld.metrics.extractor import block_statistics_of
from psld.metrics.frechet import frechet_distance, frechet_estimate
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
    sizes = np.bincount(block_of(np.arange(n)), minlength=BLOCKS)
    assert sizes.max() - sizes.min() <= 6


@pytest.mark.parametrize("classes", [2, 10, 20, 100])
def test_each_block_has_its_share_of_cycling_labels(classes):
    index = np.arange(10_000)
    for label in (0, 1):
        counts = np.bincount(block_of(index[index % classes == label]), minlength=BLOCKS)
        assert counts.max() - counts.min() <= 6


def test_a_block_depends_on_the_index_alone():
    assert np.array_equal(block_of(np.arange(500))[123:], block_of(np.arange(123, 500)))
    assert block_of(np.array([10**12]))[0] in range(BLOCKS)


@pytest.mark.parametrize("cuts", [[1], [250], [7, 8, 300], list(range(10, 500, 10))])
def test_any_shards_and_batches_in_any_order_agree(cuts):
    x = random_features(500, 6, 1)
    whole = blocks_of(x)
    firsts = [0, *cuts]
    shards = [blocks_of(p, first=f) for p, f in zip(x.tensor_split(cuts), firsts, strict=True)]
    total = BlockStatistics(6)
    for shard in reversed(shards):
        total.merge(shard)
    assert total.counts == whole.counts
    for mine, theirs in zip(total.blocks, whole.blocks, strict=True):
        torch.testing.assert_close(mine.outer, theirs.outer, rtol=1e-12, atol=1e-12)


def test_total_and_rests_are_those_of_the_samples():
    x = random_features(300, 5, 1)
    statistics = blocks_of(x)
    torch.testing.assert_close(statistics.total.covariance, gather(x).covariance)
    block = torch.from_numpy(block_of(np.arange(300)))
    for j, rest in enumerate(statistics.without_each()):
        torch.testing.assert_close(rest.covariance, gather(x[block != j]).covariance)


@pytest.mark.parametrize(("d", "error"), [(16, 1e-12), (600, 1e-6)])
def test_a_file_gives_back_the_distances(tmp_path, d, error):
    """More than 512 features are stored in single precision, around their means."""
    samples, reference = blocks_of(100 + random_features(900, d, 1)), random_features(900, d, 2)
    digest = samples.save(tmp_path / "blocks.safetensors")
    loaded = BlockStatistics.load(tmp_path / "blocks.safetensors", digest)
    assert loaded.counts == samples.counts
    reference = gather(100 + reference)
    expected = frechet_distance(samples.total, reference)
    assert frechet_distance(loaded.total, reference) == pytest.approx(expected, rel=error)


def test_the_file_is_as_large_as_the_docstring_says(tmp_path):
    statistics = blocks_of(random_features(100, 64, 1))
    statistics.save(tmp_path / "blocks.safetensors")
    size = (tmp_path / "blocks.safetensors").stat().st_size
    assert size == pytest.approx(BLOCKS * 64 * 65 / 2 * 8, rel=0.1)


def test_a_damaged_file_is_named_in_one_line(tmp_path):
    path = tmp_path / "blocks.safetensors"
    digest = blocks_of(random_features(100, 3, 1)).save(path)
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"blocks\.safetensors: damaged") as caught:
        BlockStatistics.load(path, digest)
    assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(UserError, match="no such file"):
        BlockStatistics.load(path, digest)


def test_a_foreign_file_is_named_in_one_line(tmp_path):
    from safetensors.torch import save_file

    from psld.utils.files import sha256_of_file

    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(UserError, match=r"weights\.safetensors: not statistics of blocks"):
        BlockStatistics.load(path, sha256_of_file(path))


def test_few_samples_fill_few_blocks_and_still_give_an_interval(tmp_path):
    """As in a rehearsal of a grid: the jackknife then leaves out single samples."""
    few = blocks_of(random_features(7, 3, 1))
    loaded = BlockStatistics.load(tmp_path / "few", few.save(tmp_path / "few"))
    assert loaded.counts == few.counts
    estimate = frechet_estimate(loaded, gather(random_features(9, 3, 2)))
    assert estimate.block_samples == (1,) * 7
    assert estimate.interval.low < estimate.value < estimate.interval.high
    with pytest.raises(UserError, match="at least 2 are needed"):
        frechet_estimate(blocks_of(random_features(2, 3, 1)), gather(random_features(9, 3, 2)))


def test_other_dimensions_and_blocks_cannot_be_merged():
    with pytest.raises(UserError, match="different extractors"):
        BlockStatistics(3).merge(BlockStatistics(4))
    with pytest.raises(UserError, match="in 20 and in 30 blocks"):
        BlockStatistics(3).merge(BlockStatistics(3, blocks=30))
    with pytest.raises(UserError, match="at least 2 blocks"):
        BlockStatistics(3, blocks=1)


def test_statistics_of_a_shard_s_images_start_at_its_first_sample():
    images = torch.arange(60, dtype=torch.uint8).reshape(60, 1, 1, 1)

    class Brightness:
        dimension, device = 1, torch.device("cpu")

        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1).float()

    whole = blocks_of(images.flatten(1).float())
    total = BlockStatistics(1)
    for first, last in ((25, 60), (0, 25)):
        batches = images[first:last].split(10)
        total.merge(block_statistics_of(Brightness(), batches, "shard", last - first, first))
    assert total.counts == whole.counts
    assert [float(b.sum) for b in total.blocks] == [float(b.sum) for b in whole.blocks]
