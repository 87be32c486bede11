"""Inpainting: known pixels end at their values in the image, and unknown pixels follow the data."""

import pytest
import torch

import psld
from psld.data.units import from_uint8, to_uint8
from psld.diffusion.integrators import Inpainting
from psld.diffusion.loop import Replacement, path, sample
from psld.diffusion.matrices import mix
from psld.diffusion.process import LinearProcess
from psld.diffusion.samplers import EMSettings, RK45Settings
from psld.diffusion.score import NetworkScore
from psld.utils.errors import UserError
from tests.diffusion.processes import phase_space, varying, vp_sde
from tests.diffusion.sampling import gaussian, on_grid

PROCESSES = {
    "psld": phase_space(0.25),
    "cld": phase_space(0.0),
    "psld-dsm": phase_space(0.02, matching="dsm"),
    "vp-sde": vp_sde(),
    "varying": varying(),
}


@pytest.mark.parametrize(
    ("name", "integrator"),
    [
        ("cld", "em"),
        ("psld-dsm", "sscs"),
        ("psld-dsm", "multistep"),
        ("cld", "gddim"),
        ("varying", "em"),
        ("varying", "multistep"),
    ],
)
def test_known_pixels_are_kept_and_holes_have_the_variance_of_the_data(name, integrator):
    """Known pixels are kept up to two quantization levels."""
    process, count, size = PROCESSES[name], 40, 8
    random = torch.Generator().manual_seed(0)
    originals = torch.randint(0, 256, (count, 1, size, size), generator=random, dtype=torch.uint8)
    known = torch.ones_like(originals)
    known[::2, ..., : size // 2] = 0  # the left half is missing
    known[1::2, ..., size // 2 :, :] = 0  # the lower half is missing
    noise = lambda z: torch.randn(z.shape, generator=random)  # noqa: E731
    settings = on_grid(integrator, striding="quadratic", steps=100, final_time=1e-3)
    z = sample(
        process,
        settings,
        NetworkScore(gaussian(0.3**0.5).network(process), batch_size=count),
        process.prior(noise(torch.empty(count, process.blocks, size, size))),
        noise,
        Inpainting(process, from_uint8(originals), known),
    )
    difference = to_uint8(z[:, :1]).int() - originals.int()
    assert difference[known == 1].abs().max() <= 2
    assert float(z[:, :1][known == 0].var()) == pytest.approx(0.3, rel=0.15)


@pytest.mark.parametrize("name", PROCESSES)
def test_known_pixels_are_drawn_from_the_kernel_of_their_time(name):
    """N(a x₀, Σ) given the image, under HSM and DSM, and the end has the kernel's mean."""
    process, size = PROCESSES[name], 4
    random = torch.Generator().manual_seed(0)
    images = torch.rand(3, 2, size, size, generator=random) * 2 - 1
    eps = torch.randn(3, 2 * process.blocks, size, size, generator=random)
    times = [1.0, 0.3, 1e-3]
    replacement = Replacement(Inpainting(process, images, torch.ones(3, 1, size, size)), times)
    for index, t in enumerate(times):
        z = replacement.noisy(index, torch.zeros_like(eps), lambda _: eps)
        time = torch.full((3,), t, dtype=torch.float64)
        mean = process.mean(images, time, torch.zeros_like(eps)[:, 2:])
        factor = torch.linalg.cholesky(process.image_covariance(time))
        torch.testing.assert_close(z, mean + mix(factor, eps), rtol=1e-5, atol=1e-6)
        found = replacement.mean(index, torch.zeros_like(eps))
        torch.testing.assert_close(found, mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("integrator", ["em", "sscs", "gddim", "conjugate"])
def test_known_pixels_get_the_noise_of_their_time_in_each_step(integrator):
    """EM and SSCS replace known pixels at the level of the step's start, the other samplers at the
    level of its end."""
    process, images = PROCESSES["psld"], 0.1 + 0.2 * torch.rand(2, 1, 4, 4)
    choice = {"steps": 5, "striding": "quadratic", "final_time": 1e-2}
    settings = on_grid(integrator, **choice)
    grid = settings.time_grid(process).tolist()
    drawn = [1.0, *(grid[:-1] if integrator in ("em", "sscs") else grid[1:])]
    known = Inpainting(process, images, torch.ones_like(images))
    score, start = NetworkScore(lambda z, t: torch.tanh(z.roll(1, -1)), 2), torch.zeros(2, 2, 4, 4)
    noise = torch.full((2, 2, 4, 4), 0.3)
    states = [z for _, z in path(process, settings, score, start, lambda z: noise, known)]
    for z, t in zip(states, [*drawn, None], strict=True):
        time = torch.tensor([settings.final_time if t is None else t], dtype=torch.float64)
        expected = mix(process.image_mean(time)[0][:, None], images)
        if t is not None:  # the end is the mean
            expected = expected + mix(process.image_factor(time)[0], noise)
        torch.testing.assert_close(z, expected, rtol=1e-5, atol=1e-6)


def test_masks_between_0_and_1_are_refused():
    image = torch.full((1, 1, 4, 4), 0.5)
    said = "inpainting: the mask must be 1 for a known pixel, else 0"
    with pytest.raises(UserError, match=said):
        Inpainting(PROCESSES["psld"], image, image)


def test_images_beyond_their_range_are_refused():
    image, mask = torch.full((1, 1, 4, 4), 255.0), torch.ones(1, 1, 4, 4)
    with pytest.raises(UserError, match=r"inpainting: the images must be in \[−1, 1\]"):
        psld.sample(
            PROCESSES["psld"], torch.nn.Identity().eval(), (1, 1, 4, 4), inpainting=(image, mask)
        )


def test_kernels_are_computed_once_for_all_steps(monkeypatch):
    """This holds for any number of steps."""
    factorized = []
    factor = LinearProcess.image_factor
    monkeypatch.setattr(
        LinearProcess, "image_factor", lambda *given: factorized.append(1) or factor(*given)
    )
    process, counts = PROCESSES["psld"], []
    for steps in (2, 3, 9):  # The first sampler also measures the noise levels of the process.
        factorized.clear()
        settings = EMSettings(integrator="em", striding="uniform", steps=steps)
        z, images = torch.zeros(2, 2, 4, 4), torch.zeros(2, 1, 4, 4)
        known = Inpainting(process, images, images + 1)
        sample(process, settings, NetworkScore(lambda z, t: z, 2), z, torch.randn_like, known)
        counts.append(len(factorized))
    assert counts[1:] == [1, 1]


def test_adaptive_steps_cannot_inpaint():
    process, z = PROCESSES["vp-sde"], torch.zeros(1, 1, 4, 4)
    settings = RK45Settings(integrator="rk45", tolerance=1e-2)
    with pytest.raises(UserError, match="rk45 has none; use another sampler"):
        sample(process, settings, None, z, None, Inpainting(process, z, z))
