"""The analysis of a process before training."""

import pytest
import torch

from psld.diffusion.design import Mixture, measure_sampler, time_spent
from psld.diffusion.instances import phase_space
from psld.diffusion.settings import SDESettings
from tests.diffusion.processes import THREE_ORDERS, normal, times
from tests.diffusion.sampling import multistep, rk45


def test_time_spent_adds_up():
    process = phase_space(0.01)
    levels = process.noise_level(times(1e-5, 0.1, 0.3, 1.0))
    torch.testing.assert_close(time_spent(process, levels), times(0.1 - 1e-5, 0.2, 0.7))


def test_a_mixture_knows_its_quantiles_and_its_denoiser():
    mixture = Mixture()
    quantiles = mixture.quantiles(2001)
    weights, means = torch.tensor(mixture.weights), torch.tensor(mixture.means)
    assert float(quantiles.mean()) == pytest.approx(float(weights @ means), abs=1e-3)
    assert float(quantiles[1000]) == pytest.approx(0.16, abs=0.02)
    # Averaged over y, E[x₀ | y] has the mean of the data.
    y = quantiles + 0.5 * normal(2001)
    found = mixture.denoise(y, torch.tensor(0.5, dtype=torch.float64))
    assert float(found.mean()) == pytest.approx(float(quantiles.mean()), abs=0.03)
    near = mixture.denoise(times(-0.7), torch.tensor(1e-4, dtype=torch.float64))
    assert float(near) == pytest.approx(-0.7, abs=1e-6)


@pytest.mark.parametrize("name", THREE_ORDERS)
def test_samplers_are_compared_by_their_distance(name):
    """Few steps of the multistep sampler beat Euler–Maruyama; more steps of it beat both."""
    em = SDESettings(integrator="em", striding="quadratic", steps=10)
    samplers = {
        "em": em,
        "multistep 10": multistep(10, eta=1.0, final_time=1e-3),
        "multistep 100": multistep(100, root="straight", final_time=1e-3),
    }

    def table():
        return [measure_sampler(*s, THREE_ORDERS[name], count=1024) for s in samplers.items()]

    first = table()
    assert [row.sampler for row in first] == list(samplers)
    assert [row.evaluations for row in first] == [10, 10, 100]
    distance = {row.sampler: row.distance for row in first}
    assert distance["multistep 10"] < distance["em"]
    assert distance["multistep 100"] < 0.04
    assert table() == first


def test_an_adaptive_sampler_is_compared_by_what_it_used():
    row = measure_sampler("rk45", rk45(1e-3), phase_space(0.02), count=256)
    assert 20 < row.evaluations < 300
    assert row.distance < 0.1
