"""The Fréchet distance, compared with closed forms and torch-fidelity; statistics of features."""

import math

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from psld.config.settings import parse
from psld.metrics.blocks import BLOCKS, assign_blocks, block_index, distinct_numbers
from psld.metrics.distances import frechet_distance, frechet_estimate
from psld.metrics.features import (
    BlockMoments,
    Features,
    FeatureStatistics,
    Reference,
    digest_of_weights,
)
from psld.metrics.settings import MetricSettings
from psld.utils.errors import RunError, UserError


def gaussian(mean, covariance, count: int = 1000) -> FeatureStatistics:
    """Return statistics with exactly this mean and covariance."""
    mean = torch.as_tensor(mean, dtype=torch.float64)
    covariance = torch.as_tensor(covariance, dtype=torch.float64)
    outer = (count - 1) * covariance + count * torch.outer(mean, mean)
    return FeatureStatistics(count, count * mean, outer)


gather = FeatureStatistics.of


def moments(x: torch.Tensor) -> BlockMoments:
    return BlockMoments(assign_blocks(len(x))).add(x)


def random_features(n: int, d: int, seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=random)
    return torch.randn(n, d, generator=random) @ mixing + torch.randn(d, generator=random)


def test_the_distance_of_covariances_that_do_not_commute_is_exact():
    """In two dimensions, Tr √(C₁C₂) = √(Tr(C₁C₂) + 2 √(det C₁ det C₂))."""
    c1 = np.array([[2.0, 0.9], [0.9, 1.0]])
    c2 = np.array([[0.5, -0.3], [-0.3, 3.0]])
    root = math.sqrt(np.trace(c1 @ c2) + 2 * math.sqrt(np.linalg.det(c1) * np.linalg.det(c2)))
    expected = (1 - 3) ** 2 + 0.5**2 + np.trace(c1) + np.trace(c2) - 2 * root
    actual = frechet_distance(gaussian([1, 0], c1), gaussian([3, 0.5], c2))
    assert actual == pytest.approx(expected, rel=1e-12)


def test_the_distance_of_singular_covariances_is_exact():
    """Rank one each: C = uuᵀ, so Tr √(C₁C₂) = |u₁·u₂|; a constant feature has C = 0."""
    u1, u2 = np.array([1.0, 2.0, 0.0]), np.array([0.5, -1.0, 3.0])
    a, b = gaussian(np.zeros(3), np.outer(u1, u1)), gaussian(np.zeros(3), np.outer(u2, u2))
    assert frechet_distance(a, b) == pytest.approx(u1 @ u1 + u2 @ u2 - 2 * abs(u1 @ u2), rel=1e-9)
    constant = gaussian(np.ones(3), np.zeros((3, 3)))
    assert frechet_distance(a, constant) == pytest.approx(3 + u1 @ u1, rel=1e-9)


@pytest.mark.parametrize(("n", "d", "rel"), [(2000, 64, 1e-9), (30, 100, 1e-6)])
def test_the_frechet_distance_agrees_with_torch_fidelity(n, d, rel):
    """The last case is singular, so the rounding of torch-fidelity limits the agreement."""
    x, y = random_features(n, d, 1), random_features(n + 10, d, 2)
    theirs = fid_statistics_to_metric(
        fid_features_to_statistics(x.double()), fid_features_to_statistics(y.double()), False
    )
    expected = theirs["frechet_inception_distance"]
    assert frechet_distance(gather(x), gather(y)) == pytest.approx(expected, rel=rel)


def test_different_extractors_and_single_images_raise_user_errors():
    with pytest.raises(UserError, match="use one extractor for both"):
        frechet_distance(gather(random_features(9, 3, 1)), gather(random_features(9, 4, 1)))
    with pytest.raises(UserError, match="at least 2"):
        frechet_distance(gather(random_features(9, 3, 1)), gather(random_features(1, 3, 1)))


# -- statistics of all features, and in blocks -----------------------------------------------------


def test_statistics_of_parts_add_up_to_the_moments_of_numpy():
    x = random_features(500, 7, 0)
    parts = [gather(part) for part in x.tensor_split([1, 2, 3, 499])]
    for order in (parts, parts[::-1]):
        total = sum(order[1:], start=order[0])
        assert total.count == 500
        np.testing.assert_allclose(total.mean, x.double().mean(0), rtol=1e-12)
        np.testing.assert_allclose(total.covariance, np.cov(x.double().numpy().T), rtol=1e-11)
    assert [part.count for part in parts] == [1, 1, 1, 496, 1], "adding leaves the terms alone"
    rest = gather(x[:499]).covariance
    np.testing.assert_allclose((total - parts[-1]).covariance, rest, rtol=1e-10)


def test_blocks_have_nearly_equal_sizes_also_within_each_class():
    index = np.arange(50_000)
    for chosen in (index[:200], index, index[:10_000][::10], index[:10_000][1::20]):
        sizes = np.bincount(block_index(chosen), minlength=BLOCKS)
        assert sizes.max() - sizes.min() <= 6
    assert block_index(np.array([10**12]))[0] in range(BLOCKS)


def test_all_copies_of_an_image_are_in_the_same_block():
    numbers = distinct_numbers(np.arange(6)[[0, 1, 0, 2, 1, 3, 4, 5], None])
    assert numbers.tolist() == [0, 1, 0, 2, 1, 3, 4, 5]
    blocks = assign_blocks(numbers, 3)
    assert blocks.copies == 2
    assert blocks.block[0] == blocks.block[2]
    assert blocks.block[1] == blocks.block[4]
    assert assign_blocks(8, 3).copies == 0


@pytest.mark.parametrize("copies", [0, 150])
def test_moments_of_blocks_do_not_depend_on_the_parts_in_which_features_arrive(copies):
    """With many copies of one image, the sizes of the blocks differ."""
    x = random_features(400, 6, 1)
    x[1 : copies + 1] = x[0]
    numbers = distinct_numbers(x.numpy())
    blocks = assign_blocks(numbers)
    added = BlockMoments(blocks, numbers)
    for part in x.split([3, 1, 96, 300]):
        added.add(part)
    added.add(x)  # Features after the last image are ignored.
    assert (max(blocks.block.bincount()) > 150) == (copies > 0)
    pairs = [(added.total, gather(x))]
    pairs += [(added.without(j), gather(x[blocks.block != j])) for j in range(blocks.count)]
    for found, expected in pairs:
        assert found.count == expected.count
        torch.testing.assert_close(found.mean, expected.mean, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(found.covariance, expected.covariance, rtol=1e-10, atol=1e-10)
    with pytest.raises(RunError, match="the features contain NaN or infinity"):
        BlockMoments(blocks).add(x / 0)


def test_statistics_have_the_moments_from_which_they_are_built():
    total = gather(random_features(80, 4, 1))
    mean, covariance = total.mean, total.covariance
    moments = FeatureStatistics.of_moments(mean.float(), covariance.float())
    torch.testing.assert_close(moments.mean, mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(moments.covariance, covariance, rtol=1e-6, atol=1e-6)
    with pytest.raises(UserError, match=r"statistics \(mu, sigma\), which suffice for Fréchet"):
        moments.on("cpu")


def test_the_digest_of_weights_includes_the_architecture():
    weights = {"a": torch.zeros(3)}
    others = {"a": torch.ones(3)}, {"b": torch.zeros(3)}
    digests = {digest_of_weights("one", weights), digest_of_weights("another", weights)}
    assert len(digests | {digest_of_weights("one", each) for each in others}) == 4


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_distance_is_computed_to_the_reference_split(split):
    content = {"name": "fd-classifier", "extractor": {"kind": "classifier"}}
    metric = parse(MetricSettings, content | {"reference_split": split}, "metric")
    train, other = random_features(200, 4, 1), random_features(60, 4, 1) + 0.1
    reference = Reference(Features(train), Features(other), Features(train + 10))
    images = getattr(reference, split)
    assert metric.evaluate(images, reference).estimate.value == pytest.approx(0, abs=1e-9)
    floor, noise = metric.scale(reference).values()
    assert 0.01 < floor < noise


def test_few_samples_fill_few_blocks_and_still_give_an_interval():
    """This happens in a rehearsal of a grid; the jackknife then leaves out single samples."""
    reference = gather(random_features(9, 3, 2))
    estimate = frechet_estimate(moments(random_features(7, 3, 1)), reference)
    assert estimate.block_samples == (1,) * 7
    assert estimate.interval.low < estimate.value < estimate.interval.high
    with pytest.raises(UserError, match="at least 2 are needed"):
        frechet_estimate(moments(random_features(2, 3, 1)), reference)


def test_the_distance_without_a_block_is_the_distance_of_the_other_samples():
    x, reference = random_features(300, 5, 1), gather(random_features(300, 5, 2))
    block = torch.from_numpy(block_index(np.arange(300)))
    estimate = frechet_estimate(moments(x), reference)
    assert estimate.value == pytest.approx(frechet_distance(gather(x), reference))
    for j, value in enumerate(estimate.without_block):
        rest = frechet_distance(gather(x[block != j]), reference)
        assert value == pytest.approx(rest, rel=1e-9)
