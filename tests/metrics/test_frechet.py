"""The Fréchet distance on closed forms, on singular covariances, and against torch-fidelity."""

import math

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from psld.metrics.distances import frechet_distance
from psld.metrics.features import FeatureStatistics
from psld.utils.errors import RunError, UserError


def gaussian(mean, covariance, count: int = 1000) -> FeatureStatistics:
    """Statistics that have exactly this mean and covariance."""
    mean = torch.as_tensor(mean, dtype=torch.float64)
    covariance = torch.as_tensor(covariance, dtype=torch.float64)
    outer = (count - 1) * covariance + count * torch.outer(mean, mean)
    return FeatureStatistics(count, count * mean, outer)


gather = FeatureStatistics.of


def random_features(n: int, d: int, seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=random)
    return torch.randn(n, d, generator=random) @ mixing + torch.randn(d, generator=random)


def test_diagonal_gaussians():
    """Σ (μ₁ − μ₂)² + (σ₁ − σ₂)²."""
    a = gaussian([0.0, 1.0, 2.0], np.diag([1.0, 4.0, 9.0]))
    b = gaussian([1.0, 1.0, 0.0], np.diag([4.0, 4.0, 0.25]))
    expected = (1 + 0 + 4) + (1 - 2) ** 2 + 0 + (3 - 0.5) ** 2
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_covariances_that_do_not_commute():
    """In two dimensions Tr √(C₁C₂) = √(Tr(C₁C₂) + 2 √(det C₁ det C₂))."""
    c1 = np.array([[2.0, 0.9], [0.9, 1.0]])
    c2 = np.array([[0.5, -0.3], [-0.3, 3.0]])
    root = math.sqrt(np.trace(c1 @ c2) + 2 * math.sqrt(np.linalg.det(c1) * np.linalg.det(c2)))
    expected = np.trace(c1) + np.trace(c2) - 2 * root
    actual = frechet_distance(gaussian([0, 0], c1), gaussian([0, 0], c2))
    assert actual == pytest.approx(expected, rel=1e-12)


def test_a_rotation_and_a_common_shift_change_nothing():
    x, y = random_features(300, 6, 1), random_features(200, 6, 2)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(3)))[0]
    moved = frechet_distance(gather(x @ rotation + 1), gather(y @ rotation + 1))
    assert moved == pytest.approx(frechet_distance(gather(x), gather(y)), rel=1e-5)


def test_zero_for_equal_statistics_and_symmetric_otherwise():
    a, b = gather(random_features(300, 20, 1)), gather(random_features(200, 20, 2))
    assert 0 <= frechet_distance(a, a) < 1e-9
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)


def test_singular_covariances_in_closed_form():
    """Rank one each: C = uuᵀ, so Tr √(C₁C₂) = |u₁·u₂|; a constant has C = 0."""
    u1, u2 = np.array([1.0, 2.0, 0.0]), np.array([0.5, -1.0, 3.0])
    a, b = gaussian(np.zeros(3), np.outer(u1, u1)), gaussian(np.zeros(3), np.outer(u2, u2))
    assert frechet_distance(a, b) == pytest.approx(u1 @ u1 + u2 @ u2 - 2 * abs(u1 @ u2), rel=1e-9)
    constant = gaussian(np.ones(3), np.zeros((3, 3)))
    assert frechet_distance(a, constant) == pytest.approx(3 + u1 @ u1, rel=1e-9)


@pytest.mark.parametrize(("n", "d", "rel"), [(2000, 64, 1e-9), (300, 200, 1e-6), (30, 100, 1e-6)])
def test_agrees_with_torch_fidelity(n, d, rel):
    """The last case is singular: there torch-fidelity's own rounding limits the agreement."""
    x, y = random_features(n, d, 1), random_features(n + 10, d, 2)
    theirs = fid_statistics_to_metric(
        fid_features_to_statistics(x.double()), fid_features_to_statistics(y.double()), False
    )
    expected = theirs["frechet_inception_distance"]
    assert frechet_distance(gather(x), gather(y)) == pytest.approx(expected, rel=rel)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_broken_features_are_a_run_error(bad):
    x = random_features(50, 4, 1)
    broken = x.clone()
    broken[7, 2] = bad
    with pytest.raises(RunError, match="NaN or infinity"):
        frechet_distance(gather(x), gather(broken))


def test_different_extractors_and_single_images_are_user_errors():
    with pytest.raises(UserError, match="different extractors"):
        frechet_distance(gather(random_features(9, 3, 1)), gather(random_features(9, 4, 1)))
    with pytest.raises(UserError, match="at least 2"):
        frechet_distance(gather(random_features(9, 3, 1)), gather(random_features(1, 3, 1)))
