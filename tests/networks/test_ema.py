"""Compare the moving average of the weights with its closed form."""

import pytest
import torch
from torch import nn

from psld.networks.forward import EMA


def linear(weight: float) -> nn.Module:
    network = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(network.weight, weight)
    return network


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.9999])
def test_the_average_is_the_geometric_sum(decay):
    """θ̄_n = dⁿ θ_0 + (1 − d) Σ_k d^(n−k) θ_k."""
    weights = [2.0, -1.0, 0.5, 4.0, 3.0]
    network = linear(weights[0])
    ema = EMA(network, decay)
    for weight in weights[1:]:
        nn.init.constant_(network.weight, weight)
        ema.update(network)
    n = len(weights) - 1
    expected = decay**n * weights[0] + (1 - decay) * sum(
        decay ** (n - k) * weights[k] for k in range(1, n + 1)
    )
    assert ema.network.weight.item() == pytest.approx(expected, rel=1e-12)


def test_the_average_is_a_separate_network():
    network = nn.Sequential(linear(1.0), nn.Dropout(0.5)).train()
    ema = EMA(network, 0.5)
    assert not ema.network.training
    assert not any(p.requires_grad for p in ema.network.parameters())
    nn.init.constant_(network[0].weight, 3.0)
    assert ema.network[0].weight.item() == 1
    ema.update(network)
    assert ema.network[0].weight.item() == 2
    assert network[0].weight.item() == 3


def test_the_average_copies_the_batch_norm_statistics():
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1)).train()
    ema, x = EMA(network, 0.9), 5 + 2 * torch.randn(64, 3)
    for _ in range(200):
        network(x)
        ema.update(network)
    assert ema.network(x).mean().item() == pytest.approx(network.eval()(x).mean().item(), abs=1e-5)
    assert ema.network[0].running_mean.mean() > 4
