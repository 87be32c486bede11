"""The objective of a denoiser: the law of noise levels, the loss, and what the training sees."""

import pytest
import torch

from psld.data.store import ImageStore
from psld.diffusion.loss import Batch, DenoiserLoss, NoisyImages, NoisyStates, noise_levels
from psld.diffusion.settings import NoiseLaw
from psld.networks.forward import Denoiser
from psld.training.batches import Batches
from psld.training.start import deviation, load_start, save_start
from tests.diffusion.processes import normal, phase_space, vp_sde
from tests.training.small import ONE_RANK, random_images, recipe, tiny_network

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


@pytest.mark.parametrize("process", [vp_sde(), phase_space(0.02)])
def test_an_epsilon_training_can_see_the_same_law(process):
    uniform = (torch.arange(200, dtype=torch.float64) + 0.5) / 200
    t = NoisyStates(process, 1e-5, LAW).levels(uniform)
    inside = (t > 1e-5) & (t < 1)
    torch.testing.assert_close(process.noise_level(t)[inside], noise_levels(LAW, uniform)[inside])


def test_the_loss_is_that_of_a_preconditioned_network_with_unit_weight():
    """λ(σ) ‖D − x₀‖² = ‖F − (x₀ − c_skip y) / c_out‖² (Karras et al., 2022, Eq. 8)."""
    s, network = 0.5, tiny_network(vp_sde()).double()
    batch = Batch(
        x0=normal(6, 1, 8, 8).clamp(-1, 1),
        t=torch.tensor([1e-3, 0.02, 0.3, 1.0, 8.0, 200.0], dtype=torch.float64),
        eps=normal(6, 1, 8, 8, seed=1),
        auxiliary_eps=None,
    )
    loss = DenoiserLoss(NoisyImages(LAW), s)(Denoiser(network, s, 0, 1000).double(), batch)
    sigma = batch.t[:, None, None, None]
    y, total = batch.x0 + sigma * batch.eps, sigma**2 + s**2
    target = (batch.x0 - s**2 / total * y) * total.sqrt() / (sigma * s)
    inner = network(y / total.sqrt(), batch.t.log() / 4)
    torch.testing.assert_close(loss, (inner - target).square().mean(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("flip", [False, True])
def test_deviation_and_start_are_those_of_what_the_training_sees(flip, digits, tmp_path):
    """The deviation is around the mean of each pixel."""
    store = ImageStore.open(digits)
    x = torch.from_numpy(store.images("train").copy()).double() / 127.5 - 1
    if flip:
        x = torch.cat([x, x.flip(-1)])
    assert deviation(store, flip) == pytest.approx(float(x.var(0, correction=0).mean().sqrt()))
    save_start(tmp_path, store, flip, None, "digest", torch.device("cpu"))
    data = load_start(tmp_path, "digest").data
    mean, covariance = x.flatten(1).mean(0), x.flatten(1).T.cov(correction=0)
    torch.testing.assert_close(data.means[0].double(), mean, atol=1e-5, rtol=0)
    y = normal(5, 1, 8, 8)
    linear = (y.flatten(1) - mean) @ torch.linalg.inv(covariance + 4 * torch.eye(64)) @ covariance
    filtered = data.posterior_mean(y.float(), 2.0).flatten(1).double()
    torch.testing.assert_close(filtered, mean + linear, atol=1e-2, rtol=0)  # its basis has fp16


def test_batches_draw_noise_for_the_image_alone():
    batches = Batches(random_images(), False, NoisyImages(LAW), recipe(batch_size=4), ONE_RANK)
    batch = batches.draw(0)
    assert batch.eps.shape == batch.x0.shape
    assert batch.auxiliary_eps is None
