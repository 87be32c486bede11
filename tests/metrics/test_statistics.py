"""Additive statistics: against NumPy, in any partition, and through a file."""

import numpy as np
import pytest
import torch

from psld.metrics.statistics import FeatureStatistics
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


def test_adding_leaves_the_terms_alone_and_merging_does_not():
    a, b = gather(features(10)), gather(features(20))
    assert ((a + b).count, a.count, b.count) == (30, 10, 20)
    a.merge(b)
    assert (a.count, b.count) == (30, 20)


def test_a_file_gives_back_the_same_statistics(tmp_path):
    statistics = gather(features())
    statistics.save(tmp_path / "folder" / "statistics.safetensors")
    loaded = FeatureStatistics.load(tmp_path / "folder" / "statistics.safetensors")
    assert loaded.count == statistics.count
    assert torch.equal(loaded.sum, statistics.sum)
    assert torch.equal(loaded.outer, statistics.outer)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["statistics.safetensors"]


@pytest.mark.parametrize("keep", [0, 5, 100, -8])
def test_a_damaged_file_is_a_user_error(tmp_path, keep):
    path = tmp_path / "statistics.safetensors"
    gather(features()).save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"statistics\.safetensors: not a whole file"):
        FeatureStatistics.load(path)


def test_a_foreign_file_is_a_user_error(tmp_path):
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(UserError, match="not a whole file of feature statistics"):
        FeatureStatistics.load(tmp_path / "foreign.safetensors")
    with pytest.raises(UserError, match="no such file"):
        FeatureStatistics.load(tmp_path / "missing.safetensors")


def test_too_few_samples_and_mixed_dimensions_are_user_errors():
    with pytest.raises(UserError, match="at least 2"):
        _ = gather(features(1)).covariance
    with pytest.raises(UserError, match="at least 1"):
        _ = FeatureStatistics(3).mean
    with pytest.raises(UserError, match="different extractors"):
        gather(features(d=3)).merge(gather(features(d=4)))
