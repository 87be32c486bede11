"""The adaptive integrator against SciPy's, evaluation by evaluation."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from psld.diffusion.integrators import integrate
from psld.utils.errors import RunError


def pendulum(t, y):
    """A pendulum that is struck shortly at t = 1, where steps fail."""
    return np.stack([y[1], -np.sin(y[0]) + 30 * np.exp(-((40 * (t - 1)) ** 2))])


@pytest.mark.parametrize(
    ("start", "end", "tolerance"), [(0.0, 7.0, 1e-5), (3.0, -2.0, 1e-9), (0.0, 7.0, 1e-2)]
)
def test_steps_are_those_of_scipy(start, end, tolerance):
    y = np.random.default_rng(0).standard_normal((2, 5))
    theirs = solve_ivp(
        lambda t, flat: pendulum(t, flat.reshape(2, 5)).ravel(),
        (start, end),
        y.ravel(),
        rtol=tolerance,
        atol=tolerance,
    )
    times = []

    def velocity(t, state):
        times.append(t)
        return torch.from_numpy(pendulum(t, state.numpy()))

    ours = integrate(velocity, start, end, torch.from_numpy(y), tolerance, "test")
    assert len(times) == theirs.nfev
    if tolerance < 1e-2:
        assert len(times) > 2 + 6 * (len(theirs.t) - 1), "no step was rejected"
    np.testing.assert_allclose(ours.flatten(), theirs.y[:, -1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("last", "time"), [(0.0, r"0\.0\d"), (2.0, r"2\.\d")])
def test_a_velocity_that_is_not_finite_is_named_by_its_time(last, time):
    def velocity(t, y):
        return y / (0.0 if t > last else 1.0)

    with pytest.raises(RunError, match=f"mine: the score is NaN or infinite at time {time}"):
        integrate(velocity, 0.0, 5.0, torch.ones(3, dtype=torch.float64), 1e-3, "mine")


def test_a_pole_ends_with_a_message():
    """dy/dt = y² from 1 has its pole at t = 1."""
    with pytest.raises(RunError, match=r"mine: at time \d.* no step is small enough"):
        integrate(lambda _, y: y * y, 0.0, 2.0, torch.ones(1, dtype=torch.float64), 1e-3, "mine")
