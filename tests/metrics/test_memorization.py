"""Memorization: copies of training images are found, and new images are not."""

import pytest
import torch

from psld.metrics.neighbors import memorization


def normal(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))


TRAIN, TEST, NEW = normal(500, 0), normal(1000, 1), normal(400, 2)


def test_new_images_of_the_same_distribution_have_the_quantile():
    result = memorization(NEW, TRAIN, TEST, quantile=0.2)
    assert result.share.interval.low < 0.2 < result.share.interval.high
    assert result.share.samples == 400


def test_copies_are_counted_and_their_originals_named():
    samples = NEW.clone()
    samples[7], samples[300] = TRAIN[123], TRAIN[45] + 1e-3
    samples[50:150] = TRAIN[:100] + 1e-2
    before = memorization(NEW, TRAIN, TEST)
    after = memorization(samples, TRAIN, TEST)
    assert after.share.value == pytest.approx(before.share.value + 102 / 400, abs=0.03)
    assert after.threshold == before.threshold
    assert after.share.interval.low > 0.05
    pairs = after.pairs(2)
    assert pairs == [(7, 123), (300, 45)]
    assert set(after.pairs(102)[2:]) == {(50 + i, i) for i in range(100)}


def test_distances_are_those_to_the_nearest_training_image():
    result = memorization(NEW, TRAIN, TEST)
    distances = (NEW[:, None] - TRAIN).double().norm(dim=2)
    torch.testing.assert_close(result.distances, distances.min(dim=1).values)
    assert torch.equal(result.nearest, distances.argmin(dim=1))
    assert result.share.value == (result.distances < result.threshold).double().mean()
