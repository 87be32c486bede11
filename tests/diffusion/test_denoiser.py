"""The denoiser interface: third-party samplers on any process."""

from itertools import pairwise

import pytest
import torch

from psld.diffusion.denoiser import StraightDenoiser
from psld.utils.errors import UserError
from tests.diffusion.processes import EVERY_KIND, normal, times
from tests.diffusion.sampling import MIXTURE, end, multistep, rms


def heun(denoise, y, sigmas):
    """EDM's deterministic sampler (Karras et al., 2022, Algorithm 1)."""
    for sigma, after in pairwise(sigmas):
        slope = (y - denoise(y, sigma)) / sigma
        ahead = y + (after - sigma) * slope
        if after > 0:
            corrected = (ahead - denoise(ahead, after)) / after
            ahead = y + (after - sigma) * (slope + corrected) / 2
        y = ahead
    return y


def edm_sigmas(low: float, high: float, steps: int) -> list[float]:
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    return [*((high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7).tolist(), 0.0]


def denoiser(process, count: int = 512, network=None, final_time: float = 1e-3):
    frozen = normal(count, process.blocks - 1, 1, 1, seed=5)
    return StraightDenoiser(process, network or MIXTURE.network(process), frozen, final_time)


@pytest.mark.parametrize("name", EVERY_KIND)
def test_the_denoiser_is_the_posterior_mean_at_every_level(name):
    process = EVERY_KIND[name]
    denoise = denoiser(process, count=32)
    for t in (1e-3, 0.05, 0.5, 1.0):
        sigma = float(process.noise_level(times(t)))
        y = sigma * normal(32, 1, 1, 1) + 0.1
        expected = MIXTURE.denoise(y, torch.tensor(sigma, dtype=torch.float64))
        torch.testing.assert_close(denoise(y, sigma), expected, rtol=1e-4, atol=1e-4)


def test_each_image_may_have_its_own_noise_level():
    process = EVERY_KIND["psld"]
    denoise = denoiser(process, count=4)
    sigma = torch.tensor([0.05, 0.3, 2.0, 100.0])
    y = sigma.view(-1, 1, 1, 1) * normal(4, 1, 1, 1)
    together = denoise(y, sigma)
    for index in range(4):
        alone = denoise(y, float(sigma[index]))[index]
        torch.testing.assert_close(together[index], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("final_time", [1e-2, 1e-4])
def test_levels_are_clipped_to_the_times_of_the_training(final_time):
    process, asked = EVERY_KIND["psld"], []

    def network(z, t):
        asked.append(float(t[0]))
        return MIXTURE.network(process)(z, t)

    denoise = denoiser(process, 4, network, final_time)
    y = normal(4, 1, 1, 1)
    least, below = (denoise(y, share * denoise.sigma_min) for share in (1.0, 0.5))
    torch.testing.assert_close(below, least)
    denoise(y, 2 * denoise.sigma_max)
    assert asked == pytest.approx([final_time, final_time, 1.0])


def test_shapes_that_do_not_fit_are_refused():
    process = EVERY_KIND["psld"]
    for network in (lambda z, t: z[:, :1], lambda z, t: z[:1]):
        with pytest.raises(UserError, match="network: predicts"):
            denoiser(process, 4, network)(normal(4, 1, 1, 1), 0.5)
    for y in (normal(3, 1, 1, 1), normal(4, 2, 1, 1), normal(4, 1, 2, 1)):
        with pytest.raises(UserError, match=r"expected \(4, 1, 1, 1\)"):
            denoiser(process, 4)(y, 0.5)


def test_a_plain_ve_sampler_agrees_with_straight_multistep():
    """Both solvers solve the same scalar problem from the same initial value, in straight
    coordinates."""
    process, count = EVERY_KIND["third"], 64
    z = process.prior(normal(count, process.blocks, 1, 1))
    denoise = denoiser(process, count=count, final_time=1e-2)
    whitened = torch.linalg.solve(denoise.root(times(1.0))[0], z.flatten(1).T).T
    denoise.frozen = whitened[:, 1:, None, None]
    y = denoise.sigma_max * whitened[:, :1, None, None]
    ours = end(process, multistep(20, order=3, final_time=1e-2), count=count)[:, :1]
    theirs = heun(denoise, y, edm_sigmas(denoise.sigma_min, denoise.sigma_max, 20))
    assert rms(ours - theirs) < 0.02, "with 50 levels 0.002"


def test_edm_samplers_may_use_float64_with_a_bfloat16_network():
    """The calls are those of EDM. ε is cast before it is multiplied by large coefficients."""
    process, seen = EVERY_KIND["psld"], []

    def network(z, t):
        seen.append(z.dtype)
        return torch.full_like(z, 0.3, dtype=torch.bfloat16)

    frozen = normal(4, 1, 1, 1)
    y, sigma = normal(4, 1, 1, 1), torch.tensor(3.0, dtype=torch.float64)
    half = StraightDenoiser(process, network, frozen)
    exact = StraightDenoiser(process, lambda z, t: network(z, t).double(), frozen)
    found = half(y, half.round_sigma(sigma), None)
    assert (seen, found.dtype) == ([torch.float32], torch.float64)
    torch.testing.assert_close(found, exact(y, sigma), rtol=1e-12, atol=0)
    assert half(y.float(), 3.0).dtype == torch.float32
    with pytest.raises(UserError, match="class_labels"):
        half(y, sigma, torch.zeros(4, 10))
