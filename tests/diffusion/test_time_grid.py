"""Time grids and their settings."""

import pytest
import torch

from psld.config.settings import parse
from psld.diffusion.samplers import ConjugateSettings, EMSettings, GDDIMSettings, MultistepSettings
from psld.diffusion.time_grid import time_grid, time_of_noise_level
from psld.utils.errors import UserError
from tests.diffusion.processes import EVERY_KIND, THREE_ORDERS, phase_space, times
from tests.diffusion.sampling import multistep

STRIDES = ["uniform", "quadratic", "power", "lambda", "edm"]


@pytest.mark.parametrize("striding", STRIDES)
@pytest.mark.parametrize("final_time", [1e-3, 1e-5])
@pytest.mark.parametrize("name", EVERY_KIND)
def test_a_grid_falls_from_one_to_the_final_time(name, final_time, striding):
    process = EVERY_KIND[name]
    for steps, denoise in ((2, True), (10, True), (10, False)):
        settings = multistep(steps, striding=striding, final_time=final_time, denoise=denoise)
        grid = settings.time_grid(process)
        assert grid.dtype == torch.float64
        assert len(grid) == steps + (0 if denoise else 1)
        assert grid[0] == 1
        assert float(grid[-1]) == pytest.approx(final_time, rel=1e-12)
        assert (grid.diff() < 0).all()


def test_uniform_and_quadratic_grids_are_the_paper_s():
    remaining = torch.linspace(1, 0, 5, dtype=torch.float64)
    for striding, power in (("uniform", 1), ("quadratic", 2)):
        grid = multistep(5, striding=striding, final_time=1e-3).time_grid(phase_space(0.02))
        torch.testing.assert_close(grid, 1e-3 + (1 - 1e-3) * remaining**power)


def test_power_two_is_gddim_s_grid():
    settings = multistep(7, striding="power", power=2, final_time=1e-3)
    grid = settings.time_grid(phase_space(0.02))
    expected = torch.linspace(1, 1e-3**0.5, 7, dtype=torch.float64) ** 2
    torch.testing.assert_close(grid, expected)


@pytest.mark.parametrize("name", THREE_ORDERS)
def test_noise_levels_are_spaced_as_the_strides_say(name):
    process = THREE_ORDERS[name]
    for striding, spaced in (
        ("lambda", process.log_snr),
        ("edm", lambda t: process.noise_level(t) ** (1 / 5)),
    ):
        grid = multistep(9, striding=striding, power=5, final_time=1e-3).time_grid(process)
        steps = spaced(grid).diff()
        torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", THREE_ORDERS)
def test_the_time_of_a_noise_level_is_found(name):
    process, t = THREE_ORDERS[name], times(2e-3, 0.01, 0.3, 1.0)
    found = time_of_noise_level(process, process.noise_level(t), 1e-3)
    torch.testing.assert_close(found, t, rtol=1e-8, atol=0)
    outside = time_of_noise_level(process, times(1e-9, 1e9), 1e-3)
    torch.testing.assert_close(outside, times(1e-3, 1.0))


def test_euler_maruyama_takes_every_grid():
    process = phase_space(0.02)
    for striding in STRIDES:
        settings = EMSettings(integrator="em", striding=striding, steps=5)
        integrator = settings.build(process, torch.device("cpu"))
        assert integrator.times == settings.time_grid(process)[:-1].tolist()


def test_many_levels_under_a_fall_end_at_the_final_time():
    grid = time_grid(phase_space(0.02), "edm", 1000, 1e-3, 2.0, start_level=1.0, fall=3.0)
    assert float(grid[-1]) == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("kind", "change", "complaint"),
    [
        (MultistepSettings, {"order": 4}, "order"),
        (MultistepSettings, {"eta": -1}, "eta"),
        (MultistepSettings, {"eta_interval": (1.0, 0.1)}, "two rising numbers"),
        (MultistepSettings, {"root": "curved"}, "root"),
        (MultistepSettings, {"steps": 1}, "steps"),
        (MultistepSettings, {"steps": 0, "start": "mixture", "levels": []}, "at least 2, fall"),
        (MultistepSettings, {"steps": 2, "denoise": False, "levels": [1, 0.1]}, "at least 3, fall"),
        (MultistepSettings, {"striding": "cubic"}, "striding"),
        (MultistepSettings, {"power": 0}, "power"),
        (GDDIMSettings, {"order": 0}, "order"),
        (ConjugateSettings, {"conjugation": "twos"}, "conjugation"),
    ],
)
def test_impossible_settings_are_refused(kind, change, complaint):
    names = {MultistepSettings: "multistep", GDDIMSettings: "gddim", ConjugateSettings: "conjugate"}
    content = {"integrator": names[kind], "striding": "quadratic", "steps": 10}
    parse(kind, content, "sampler")
    with pytest.raises(UserError, match=complaint):
        parse(kind, content | change, "sampler")
