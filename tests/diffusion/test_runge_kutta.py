"""The adaptive integrator on equations with known solutions, and its errors."""

import math

import pytest
import torch

from psld.diffusion.integrators import integrate
from psld.utils.errors import RunError


@pytest.mark.parametrize(("start", "end"), [(0.0, 7.0), (3.0, -2.0)])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-9])
def test_the_error_is_near_the_tolerance(start, end, tolerance):
    """dy/dt = y cos t from y₀ at s has the solution y₀ exp(sin t − sin s)."""
    y = torch.linspace(-1, 1, 10, dtype=torch.float64).view(2, 5)
    found = integrate(lambda t, y: y * math.cos(t), start, end, y, tolerance, "test")
    error = found - y * math.exp(math.sin(end) - math.sin(start))
    assert tolerance / 100 < float(error.abs().max()) < 10 * tolerance


@pytest.mark.parametrize(("last", "time"), [(0.0, r"0\.0\d"), (2.0, r"2\.\d")])
def test_the_error_for_a_velocity_that_is_not_finite_states_the_time(last, time):
    def velocity(t, y):
        return y / (0.0 if t > last else 1.0)

    with pytest.raises(RunError, match=f"mine: the score is NaN or infinite at time {time}"):
        integrate(velocity, 0.0, 5.0, torch.ones(3, dtype=torch.float64), 1e-3, "mine")


def test_a_pole_raises_an_error():
    """dy/dt = y² from 1 has its pole at t = 1."""
    with pytest.raises(RunError, match=r"mine: at time \d.* no step size meets the tolerance"):
        integrate(lambda _, y: y * y, 0.0, 2.0, torch.ones(1, dtype=torch.float64), 1e-3, "mine")
