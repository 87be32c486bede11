"""Integrators on data with a known score, measured by the benchmark for arbitrary samplers."""

import pytest

from benchmarks import exact
from benchmarks.exact import cells, distance, error, fitted_order, sampler_of
from psld.diffusion.samplers import RK45Settings
from psld.utils.errors import UserError
from tests.diffusion.mixture import Mixture
from tests.diffusion.processes import phase_space, sub_vp, times, varying, vp_sde
from tests.diffusion.sampling import gaussian, sde

DATA = gaussian(0.3**0.5)
SMOOTH = varying(lambda t: 6 + 4 * t)


def order(process, integrator: str, striding: str) -> float:
    steps = (60, 120)
    grids = [sde(integrator, striding=striding, steps=n) for n in steps]
    return fitted_order(steps, [error(process, settings, DATA) for settings in grids])


@pytest.mark.parametrize(
    ("process", "striding"),
    [(vp_sde(), "uniform"), (phase_space(0.25), "quadratic"), (SMOOTH, "uniform")],
)
def test_euler_maruyama_has_weak_order_one(process, striding):
    assert order(process, "em", striding) == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize(
    ("process", "striding"), [(phase_space(0.25), "uniform"), (phase_space(0.0), "quadratic")]
)
def test_splitting_converges_with_order_one_or_better(process, striding):
    assert 0.8 < order(process, "sscs", striding) < 2.2


@pytest.mark.parametrize("process", [vp_sde(), phase_space(0.02), varying(), sub_vp()])
def test_probability_flow_keeps_the_marginals(process):
    settings = RK45Settings(integrator="rk45", tolerance=1e-7)
    assert error(process, settings, DATA) < 1e-5


@pytest.fixture
def few_images(monkeypatch):
    monkeypatch.setattr(exact, "IMAGES", 2**12)


@pytest.mark.parametrize("text", ["multistep", "few start_level=2 fall=null"])
def test_the_last_evaluation_narrows_data_as_narrow_as_the_last_level(text, few_images):
    """For one Gaussian, E[x₀ | y] has a smaller standard deviation than x₀; more steps do not
    change this."""
    process, deviation = phase_space(0.25), 0.1
    level = float(process.noise_level(times(1e-3)))
    sampler = sampler_of(text, process, gaussian(deviation, mean=0.5), (5,))
    images = sampler.run(None, sampler.data, 1).images
    expected = deviation**2 / (deviation**2 + level**2) ** 0.5
    assert expected < 0.95 * deviation
    assert float(images.mean()) == pytest.approx(0.5, abs=1e-3)
    assert float(images.std()) == pytest.approx(expected, rel=5e-3)


def test_the_gaussian_start_is_exact_for_gaussian_data_only(few_images):
    two = Mixture(weights=(0.5, 0.5), means=(-0.6, 0.6), deviations=(0.1, 0.1))
    costs = []
    for data in (two.gaussian(), two):
        sampler = sampler_of("few start_level=0.4 eta=0", vp_sde(), data, (20,))
        own, drawn = (sampler.run(20, law, 1).images for law in (None, data))
        costs.append(distance(own, drawn))
    assert costs[0] < 0.002
    assert costs[1] > 0.02


def test_a_sampler_function_of_the_user_is_measured(few_images):
    """EDM's Heun method has order 2 and two evaluations per level, except at the last level."""
    sampler = sampler_of(
        "tests.diffusion.test_denoiser.heun", vp_sde(), gaussian(0.5), (20, 40, 80)
    )
    *errors, start, steps, _, order = cells(sampler)
    assert [text.partition(" @ ")[2] for text in errors] == ["39", "79", "159"]
    assert float(start) < float(steps) < 0.005
    assert float(order) == pytest.approx(2, abs=0.3)


@pytest.mark.parametrize("text", ["nothing", "tests.diffusion.test_denoiser.nothing", "em speed=2"])
def test_an_unknown_sampler_is_named(text):
    with pytest.raises(UserError, match=r"no such|unknown key sampler\.speed"):
        sampler_of(text, vp_sde(), DATA, (20,))
