"""The losses, compared with their definitions, image by image in float64."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import one_hot

from psld.diffusion.loss import Batch, EpsilonLoss, NoisyImages, NoisyStates, noise_levels
from psld.diffusion.settings import NoiseLaw
from psld.models.objectives import Denoiser, Guide, ImageGuide, Loss
from psld.networks.forward import Denoiser as Preconditioned
from tests.diffusion.processes import EVERY_KIND, normal, phase_space, vp_sde
from tests.training.small import tiny_network

CHANNELS = 3


@pytest.fixture(params=["vp-sde", "cld", "cld-dsm", "psld-dsm-upper", "third-upper"])
def process(request):
    return EVERY_KIND[request.param]


def draws(process, count=6):
    random = torch.Generator().manual_seed(0)

    def normal(channels):
        return torch.randn(count, channels, 4, 4, dtype=torch.float64, generator=random)

    t = torch.linspace(0.05, 1, count, dtype=torch.float64)
    x0 = normal(CHANNELS)
    eps, auxiliary = normal(process.blocks * CHANNELS), normal((process.blocks - 1) * CHANNELS)
    return x0, t, eps, auxiliary if process.needs_auxiliary_noise else None


def stand_in(process):
    """A network with errors, whose output has as many channels as the process predicts."""
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


# --- the objective of a denoiser ------------------------------------------------------------------

LAW = NoiseLaw(center=-1.2, width=1.2, low=2e-5, high=1000)


def test_the_law_of_levels_is_log_normal_and_clipped():
    uniform = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    logarithm = noise_levels(LAW, uniform).log()
    assert float(logarithm.mean()) == pytest.approx(-1.2, abs=1e-3)
    assert float(logarithm.std()) == pytest.approx(1.2, abs=1e-2)
    narrow = NoiseLaw(center=0, width=10, low=0.1, high=2)
    assert [float(each) for each in noise_levels(narrow, uniform)[[0, -1]]] == pytest.approx(
        [0.1, 2]
    )
    assert float(noise_levels(LAW, torch.zeros(1, dtype=torch.float64))) == 2e-5, (
        "0 is a uniform number, too"
    )


def test_times_are_uniform_from_time_eps_to_1():
    uniform = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    t = NoisyStates(vp_sde(), 0.25).levels(uniform)
    torch.testing.assert_close(t, torch.tensor([0.25, 0.625, 1.0], dtype=torch.float64))


def test_an_epsilon_training_can_use_the_noise_law():
    process = phase_space(0.02)
    uniform = (torch.arange(200, dtype=torch.float64) + 0.5) / 200
    t = NoisyStates(process, 1e-5, LAW).levels(uniform)
    inside = (t > 1e-5) & (t < 1)
    torch.testing.assert_close(process.noise_level(t)[inside], noise_levels(LAW, uniform)[inside])
    later = NoisyStates(process, 0.2, LAW).levels(uniform)
    torch.testing.assert_close(later, t.clamp(min=0.2))


def test_the_denoiser_loss_is_the_error_of_the_inner_network_with_unit_weight():
    """λ(σ) ‖D − x₀‖² = ‖F − (x₀ − c_skip y) / c_out‖² (Karras et al., 2022, Eq. 8)."""
    s, network = 0.5, tiny_network(vp_sde()).double()
    batch = Batch(
        x0=normal(6, 1, 8, 8).clamp(-1, 1),
        t=torch.tensor([1e-3, 0.02, 0.3, 1.0, 8.0, 200.0], dtype=torch.float64),
        eps=normal(6, 1, 8, 8, seed=1),
        auxiliary_eps=None,
    )
    loss_of = Loss(Denoiser(), SimpleNamespace(deviation=s), NoisyImages(LAW))
    loss = loss_of(Preconditioned(network, s, 0, 1000).double(), batch)
    sigma = batch.t[:, None, None, None]
    y, total = batch.x0 + sigma * batch.eps, sigma**2 + s**2
    target = (batch.x0 - s**2 / total * y) * total.sqrt() / (sigma * s)
    inner = network(y / total.sqrt(), batch.t.log() / 4)
    torch.testing.assert_close(loss, (inner - target).square().mean(), rtol=1e-6, atol=0)


# --- a guide's ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sees", ["states", "images"])
def test_a_guide_s_loss_is_the_mean_negative_log_probability(sees):
    """Inputs are states with their times, or scaled images with σ^¼."""
    process, seen = phase_space(0.25), []
    x0, t, eps, _ = draws(process)
    loss_of = Loss(Guide(), None, NoisyStates(process))
    if sees == "images":
        eps, loss_of = eps[:, :CHANNELS], Loss(ImageGuide(), None, NoisyImages(LAW))
    labels, chosen = torch.tensor([0, 2, 1, 1, 0, 2]), torch.randn(6, 3, dtype=torch.float64)

    def guide(z, time):
        seen.extend((z, time))
        return chosen

    found = loss_of(guide, Batch(x0, t, eps, None, labels))
    logits = chosen.float()
    expected = -(logits - logits.exp().sum(1, keepdim=True).log())[one_hot(labels) == 1].mean()
    torch.testing.assert_close(found, expected)
    if sees == "states":
        expected = process.perturb(x0, t, eps), t
    else:
        sigma = t[:, None, None, None]
        expected = (x0 + sigma * eps) / (1 + sigma**2).sqrt(), t**0.25
    for found, each in zip(seen, expected, strict=True):
        torch.testing.assert_close(found, each)
