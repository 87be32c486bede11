"""Time grids and their settings."""

import pytest
import torch

from psld.config.settings import parse
from psld.diffusion.denoiser import check_levels
from psld.diffusion.samplers import MultistepSettings
from psld.diffusion.time_grid import (
    level_range,
    time_grid,
    time_of_noise_level,
    times_of_levels,
)
from psld.utils.errors import UserError
from tests.diffusion.processes import EVERY_KIND, phase_space, times
from tests.diffusion.sampling import multistep, rk45

STRIDES = ["uniform", "quadratic", "power", "lambda", "edm"]


@pytest.mark.parametrize("striding", STRIDES)
@pytest.mark.parametrize(("name", "final_time"), [("psld", 1e-3), ("fourth", 1e-5)])
def test_a_time_grid_decreases_from_1_to_the_final_time(name, final_time, striding):
    for steps, denoise in ((2, True), (10, False)):
        settings = multistep(steps, striding=striding, final_time=final_time, denoise=denoise)
        grid = settings.time_grid(EVERY_KIND[name])
        assert grid.dtype == torch.float64
        assert len(grid) == steps + (0 if denoise else 1)
        assert grid[0] == 1
        assert float(grid[-1]) == pytest.approx(final_time, rel=1e-12)
        assert (grid.diff() < 0).all()
        grid.zero_()  # as a custom integrator may do
        assert settings.time_grid(EVERY_KIND[name])[0] == 1


@pytest.mark.parametrize("name", ["vp-sde", "third"])
def test_time_of_noise_level_inverts_noise_level(name):
    process, t = EVERY_KIND[name], times(2e-3, 0.01, 0.3, 1.0)
    found = time_of_noise_level(process, process.noise_level(t), 1e-3)
    torch.testing.assert_close(found, t, rtol=1e-8, atol=0)
    outside = time_of_noise_level(process, times(1e-9, 1e9), 1e-3)
    torch.testing.assert_close(outside, times(1e-3, 1.0))


def test_with_fall_many_levels_end_at_the_final_time():
    grid = time_grid(phase_space(0.02), "edm", 1000, 1e-3, 2.0, start_level=1.0, fall=3.0)
    assert float(grid[-1]) == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("steps", "denoise", "between"), [(2, True, 1), (4, True, 3), (4, False, 4)]
)
def test_with_fall_a_few_levels_end_at_the_level_of_fall(steps, denoise, between):
    """The last level is σ₀ / fall^K, where K is the number of steps between levels."""
    process, start = phase_space(0.02), {"start": "mixture", "start_level": 1.5, "fall": 3.0}
    settings = multistep(steps, striding="edm", final_time=1e-3, denoise=denoise, **start)
    grid = settings.time_grid(process)
    assert len(grid) == between + 1
    levels = process.noise_level(grid[[0, -1]])
    torch.testing.assert_close(levels, times(1.5, 1.5 / 3.0**between), rtol=1e-6, atol=0)
    low, high = settings.noise_levels(process)
    assert high == pytest.approx(1.5)
    asked = grid if denoise else grid[:-1]
    assert low == pytest.approx(float(process.noise_level(asked[-1:])))


@pytest.mark.parametrize("start_level", [None, 2.0])
@pytest.mark.parametrize("striding", STRIDES)
def test_times_are_spaced_according_to_the_striding(striding, start_level):
    """The grids are those of the paper (uniform, quadratic), gDDIM (power) and EDM, from T or a
    level."""
    process, power = EVERY_KIND["vp-sde" if start_level is None else "psld"], 3
    choice = {"striding": striding, "power": power, "final_time": 1e-3}
    if start_level:
        choice |= {"start": "gaussian", "start_level": start_level}
    grid = multistep(7, **choice).time_grid(process)
    first = start_level or float(process.noise_level(times(1.0)))
    assert float(process.noise_level(grid[:1])) == pytest.approx(first)
    assert float(grid[-1]) == pytest.approx(1e-3)
    spaced = {
        "uniform": grid,
        "quadratic": (grid - 1e-3).clamp(min=0).sqrt(),
        "power": grid ** (1 / power),
        "lambda": process.log_snr(grid),
        "edm": process.noise_level(grid) ** (1 / power),
    }[striding].diff()
    torch.testing.assert_close(spaced, spaced.mean().expand_as(spaced), rtol=1e-9, atol=0)


def test_noise_levels_are_the_range_of_the_evaluations():
    """Without evaluations, any network fits. An adaptive sampler goes down to its final time."""
    process = phase_space(0.02)
    none = multistep(0, start="mixture", start_level=1.0).noise_levels(process)
    check_levels(none, 0.5, 0.6)
    for final_time in (1e-2, 1e-4):
        low, high = rk45(final_time=final_time).noise_levels(process)
        ends = process.noise_level(times(final_time, 1.0)).tolist()
        assert [low, high] == pytest.approx(ends)


def test_two_levels_at_the_same_limit_are_refused():
    process = phase_space(0.02)
    low, high = level_range(process, 1e-3)
    for levels in ((high, 1.0, 0.999 * low, 0.995 * low), (1.005 * high, 1.001 * high, 1.0)):
        with pytest.raises(UserError, match=r"levels: two levels are at least .*, or at most 0\."):
            times_of_levels(process, levels, 1e-3, True)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"order": 4}, "order"),
        ({"eta_interval": (-0.1, 1.0)}, "two ascending numbers"),
        ({"eta_interval": (0.1, 0.1)}, "two ascending numbers"),
        ({"steps": 2, "levels": [1, 0]}, "descending numbers above 0"),
        ({"steps": 0}, "at least 2 are needed"),
        ({"steps": 1}, "steps"),
        ({"steps": 0, "start": "mixture", "levels": []}, "at least 2 descending"),
        ({"steps": 2, "levels": [1, 2]}, "descending numbers above 0"),
        ({"steps": 2, "denoise": False, "levels": [1, 0.1]}, "3 are needed"),
        ({"start_level": 2.0}, "start_level is for start=mixture or gaussian"),
        ({"start": "mixture", "start_level": 2.0, "steps": 2, "levels": [4, 1]}, "leave out start"),
    ],
)
def test_impossible_settings_are_refused(change, complaint):
    content = {"integrator": "multistep", "striding": "quadratic", "steps": 10}
    parse(MultistepSettings, content, "sampler")
    with pytest.raises(UserError, match=complaint):
        parse(MultistepSettings, content | change, "sampler")
