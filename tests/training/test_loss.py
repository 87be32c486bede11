"""The losses against their definitions, image by image in float64."""

import pytest
import torch

from psld.diffusion.loss import EpsilonLoss
from psld.training.batches import Batch
from tests.diffusion.processes import phase_space, vp_sde

PROCESSES = {
    "vp-sde": vp_sde(),
    "cld": phase_space(0.0),
    "psld": phase_space(0.25),
    "psld-upper": phase_space(0.25, factor="upper"),
    "psld-dsm": phase_space(0.25, matching="dsm"),
    "cld-dsm": phase_space(0.0, matching="dsm"),
}
CHANNELS = 3


@pytest.fixture(params=PROCESSES.values(), ids=PROCESSES)
def process(request):
    return request.param


def draws(process, count=6):
    random = torch.Generator().manual_seed(0)

    def normal(channels):
        return torch.randn(count, channels, 4, 4, dtype=torch.float64, generator=random)

    t = torch.linspace(0.05, 1, count, dtype=torch.float64)
    x0 = normal(CHANNELS)
    eps, auxiliary = normal(process.blocks * CHANNELS), normal((process.blocks - 1) * CHANNELS)
    return x0, t, eps, auxiliary if process.needs_auxiliary_noise else None


def stand_in(process):
    """A network that errs, whose output has as many channels as the process predicts."""
    outputs = process.predicted_blocks * CHANNELS
    return lambda z, t: torch.tanh(z[:, -outputs:]) + t[:, None, None, None].double()


def test_fid_weighting_is_the_mean_squared_error_of_the_predicted_noise(process):
    x0, t, eps, auxiliary = draws(process)
    z = process.perturb(x0, t, eps, auxiliary)
    predicted = process.predicted
    target = eps[:, predicted.start * CHANNELS : predicted.stop * CHANNELS]
    expected = ((stand_in(process)(z, t) - target) ** 2).mean()
    actual = EpsilonLoss(process, "fid")(stand_in(process), Batch(x0, t, eps, auxiliary))
    torch.testing.assert_close(actual, expected)


def test_nll_weighting_is_the_diffusion_weighted_error_of_the_score(process):
    """Σ_blocks (G Gᵀ)_ii (s_θ − s)_i², with s = −Σ⁻¹ (z − mean) by solving, not by factors."""
    x0, t, eps, auxiliary = draws(process)
    z = process.perturb(x0, t, eps, auxiliary)
    predicted_eps = eps.clone()
    predicted = process.predicted
    predicted_eps[:, predicted.start * CHANNELS : predicted.stop * CHANNELS] = stand_in(process)(
        z, t
    )
    mean = process.mean(x0, t, auxiliary)
    covariance, factor = process.covariance(t), process.covariance_factor(t)
    total = 0.0
    for i in range(len(x0)):
        blocks = (process.blocks, -1)
        true = -torch.linalg.solve(covariance[i], (z - mean)[i].reshape(blocks))
        modelled = -torch.linalg.solve(factor[i].T, predicted_eps[i].reshape(blocks))
        weight = torch.diagonal(2 * process.beta(t[i : i + 1]) * process.D)
        total += float((weight[:, None] * (modelled - true) ** 2).sum() / true.shape[1])
    actual = EpsilonLoss(process, "nll")(stand_in(process), Batch(x0, t, eps, auxiliary))
    assert float(actual) == pytest.approx(total / len(x0), rel=1e-9)


@pytest.mark.parametrize("weighting", ["fid", "nll"])
def test_a_network_that_knows_the_noise_has_no_loss(process, weighting):
    x0, t, eps, auxiliary = draws(process)
    predicted = process.predicted
    known = eps[:, predicted.start * CHANNELS : predicted.stop * CHANNELS]
    loss = EpsilonLoss(process, weighting)(lambda z, t: known, Batch(x0, t, eps, auxiliary))
    assert float(loss) == 0
