"""Integrators on Gaussian data, whose score is known exactly.

With x₀ ~ N(0, v), the marginal of z_t is Gaussian, its score is linear, and so is every sampler.
The covariance of a sampler's end then follows exactly from its response to unit noise. So the order
of convergence can be measured without Monte Carlo.
"""

import math

import pytest
import torch

from psld.diffusion.loop import sample
from psld.diffusion.samplers import RK45Settings
from tests.diffusion.processes import phase_space, vp_sde
from tests.diffusion.sampling import sde

VARIANCE = 0.3


class GaussianScore:
    """s(z, t) = −Σ_t⁻¹ z for data N(0, VARIANCE)."""

    def __init__(self, process) -> None:
        self.process = process
        self.evaluations = 0

    def covariance(self, t: float) -> torch.Tensor:
        time = torch.tensor([t], dtype=torch.float64)
        phi = self.process.transition(time)[0]
        return self.process.covariance(time)[0] + VARIANCE * phi[:, :1] @ phi[:, :1].T

    def __call__(self, z, t, matrix):
        self.evaluations += 1
        return (
            -torch.linalg.solve(self.covariance(t), z.flatten(1).double().T)
            .T.reshape(z.shape)
            .to(z)
        )


def final_covariance(process, settings) -> torch.Tensor:
    """The covariance of the sampler's end for z_T ~ N(0, Σ_T), from its response to unit noise."""
    k, calls = process.blocks, 2 * getattr(settings, "steps", 0)
    responses = torch.zeros(k + k * calls, k, 1, 1, dtype=torch.float64)
    score = GaussianScore(process)
    responses[:k, :, 0, 0] = torch.linalg.cholesky(score.covariance(1.0)).T
    call = iter(range(calls))

    def unit_noise(z):
        noise = torch.zeros_like(z)
        first = k + k * next(call)
        for block in range(k):
            noise[first + block, block] = 1
        return noise

    end = sample(process, settings, score, responses, unit_noise).flatten(1)
    return end.T @ end


def error(process, **choice) -> float:
    settings = sde(denoise=False, **choice)
    exact = GaussianScore(process).covariance(settings.final_time)
    return float((final_covariance(process, settings) - exact).abs().max())


@pytest.mark.parametrize("striding", ["uniform", "quadratic"])
@pytest.mark.parametrize("process", [vp_sde(), phase_space(0.25), phase_space(0.0)])
def test_euler_maruyama_has_weak_order_one(process, striding):
    coarse = error(process, integrator="em", striding=striding, steps=100)
    fine = error(process, integrator="em", striding=striding, steps=200)
    assert math.log2(coarse / fine) == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize("striding", ["uniform", "quadratic"])
@pytest.mark.parametrize("process", [phase_space(0.25), phase_space(0.0)])
def test_splitting_converges_with_order_one_or_better(process, striding):
    coarse = error(process, integrator="sscs", striding=striding, steps=100)
    fine = error(process, integrator="sscs", striding=striding, steps=200)
    assert 0.8 < math.log2(coarse / fine) < 2.2


def test_splitting_beats_euler_at_the_same_cost():
    process = phase_space(0.25)
    for steps in (50, 100):
        em, sscs = (
            error(process, integrator=name, striding="quadratic", steps=steps)
            for name in ("em", "sscs")
        )
        assert sscs < em


@pytest.mark.parametrize("process", [vp_sde(), phase_space(0.02), phase_space(0.0)])
def test_probability_flow_keeps_the_marginals(process):
    settings = RK45Settings(integrator="rk45", tolerance=1e-8, denoise=False)
    exact = GaussianScore(process).covariance(settings.final_time)
    torch.testing.assert_close(final_covariance(process, settings), exact, atol=1e-5, rtol=0)


def test_tolerance_buys_accuracy():
    process = phase_space(0.02)
    z = torch.tensor([[1.0, -0.4]], dtype=torch.float64).reshape(1, 2, 1, 1)
    costs, ends = [], []
    for tolerance in (1e-2, 1e-4, 1e-6, 1e-10):
        settings = RK45Settings(integrator="rk45", tolerance=tolerance, denoise=False)
        score = GaussianScore(process)
        ends.append(sample(process, settings, score, z, None))
        costs.append(score.evaluations)
    errors = [float((end - ends[-1]).abs().max()) for end in ends[:-1]]
    assert errors[0] > 10 * errors[1] > 100 * errors[2]
    assert costs == sorted(costs)
