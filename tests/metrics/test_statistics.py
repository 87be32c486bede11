"""Additive statistics: against NumPy, in any partition."""

import numpy as np
import pytest
import torch

from psld.metrics.features import FeatureStatistics
from psld.utils.errors import UserError


def gather(*parts: torch.Tensor) -> FeatureStatistics:
    statistics = FeatureStatistics(parts[0].shape[1])
    for part in parts:
        statistics.update(part)
    return statistics


def features(n: int = 500, d: int = 7) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    mixing = torch.randn(d, d, generator=random)
    return torch.randn(n, d, generator=random) @ mixing + torch.arange(d)


def test_mean_and_covariance_are_numpys():
    x = features()
    statistics = gather(x)
    np.testing.assert_allclose(statistics.mean, x.double().mean(0), rtol=1e-13)
    np.testing.assert_allclose(statistics.covariance, np.cov(x.double().numpy().T), rtol=1e-11)


@pytest.mark.parametrize("cuts", [[1], [250], [1, 2, 3, 499], list(range(10, 500, 10))])
def test_any_partition_in_any_order_agrees(cuts):
    x = features()
    whole = gather(x)
    shards = [gather(part) for part in x.tensor_split(cuts)]
    for order in (shards, shards[::-1]):
        total = sum(order[1:], start=order[0])
        assert total.count == 500
        np.testing.assert_allclose(total.mean, whole.mean, rtol=1e-13)
        np.testing.assert_allclose(total.covariance, whole.covariance, rtol=1e-11)


def test_batches_of_one_agree_with_one_batch():
    x = features(40)
    np.testing.assert_allclose(gather(*x.split(1)).covariance, gather(x).covariance, rtol=1e-12)


def test_adding_leaves_the_terms_alone_and_subtracting_undoes_it():
    a, b = gather(features(10)), gather(features(20))
    whole = a + b
    assert (whole.count, a.count, b.count) == (30, 10, 20)
    np.testing.assert_allclose((whole - b).covariance, a.covariance, rtol=1e-12)


def test_too_few_samples_and_mixed_dimensions_are_user_errors():
    with pytest.raises(UserError, match="at least 2"):
        _ = gather(features(1)).covariance
    with pytest.raises(UserError, match="at least 1"):
        _ = FeatureStatistics(3).mean
    with pytest.raises(UserError, match="different extractors"):
        gather(features(d=3)) + gather(features(d=4))
