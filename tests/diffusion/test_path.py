"""The states on the path of a sampler."""

import pytest
import torch

from psld.diffusion.integrators import EulerMaruyama
from psld.diffusion.loop import path, sample
from psld.diffusion.matrices import mix
from psld.diffusion.samplers import EMSettings, RK45Settings, SSCSSettings
from psld.diffusion.score import NetworkScore, Prediction
from tests.diffusion.processes import phase_space
from tests.diffusion.sampling import sde

PROCESS = phase_space(0.02)


def test_euler_steps_on_the_flow_add_no_noise():
    grid = torch.tensor([1.0, 0.5], dtype=torch.float64)
    z = torch.ones(1, 2, 2, 2)
    flow = EulerMaruyama(PROCESS, grid, z.device, probability_flow=True)
    score = NetworkScore(lambda z, t: z, batch_size=1)
    torch.testing.assert_close(flow.step(0, z, score, torch.ones_like), flow.mean(0, z, score))


def arguments(settings):
    """`path` and `sample` use the same noise."""
    stream = torch.Generator().manual_seed(0)

    def noise(z):
        return torch.randn(z.shape, generator=stream)

    start = PROCESS.prior(torch.randn(3, 2, 4, 4, generator=stream))
    return PROCESS, settings, NetworkScore(lambda z, _: z, batch_size=3), start, noise


@pytest.mark.parametrize(("integrator", "denoise"), [("em", True), ("sscs", False)])
def test_a_path_has_a_state_at_every_time_of_the_grid(integrator, denoise):
    settings = sde(integrator, striding="quadratic", steps=6, denoise=denoise)
    given = arguments(settings)
    times, states = zip(*path(*given), strict=True)
    assert list(times) == [*settings.time_grid(PROCESS).tolist(), *([0.0] if denoise else [])]
    assert torch.equal(states[0], given[3])
    assert torch.equal(states[-1], sample(*arguments(settings)))
    assert not any(state.requires_grad for state in states)


def test_an_adaptive_sampler_yields_no_intermediate_states():
    settings = RK45Settings(integrator="rk45", tolerance=1e-2)
    times, states = zip(*path(*arguments(settings)), strict=True)
    assert list(times) == [1.0, settings.final_time, 0.0]
    assert torch.equal(states[-1], sample(*arguments(settings)))


def test_a_path_keeps_no_autograd_graph():
    network = torch.nn.Conv2d(2, 2, 1)
    settings = sde("em", striding="quadratic", steps=3)
    score = NetworkScore(lambda z, _: network(z), batch_size=3)
    *_, start, noise = arguments(settings)
    states = [z for _, z in path(PROCESS, settings, score, start, noise)]
    assert not any(state.requires_grad for state in states)


def test_the_denoising_step_begins_at_the_last_noise_level():
    """With `fall`, the last noise level is above the level of `final_time`."""
    settings = sde("em", striding="edm", steps=3, start="gaussian", start_level=2.0, fall=3.0)
    grid = settings.time_grid(PROCESS)
    assert float(grid[-1]) > 10 * settings.final_time
    *_, start, noise = arguments(settings)
    (_, before), (_, after) = list(path(PROCESS, settings, pulls_to_three, start, noise))[-2:]
    last = torch.stack([grid[-1], torch.zeros_like(grid[-1])])
    expected = EulerMaruyama(PROCESS, last, start.device).mean(0, before, pulls_to_three)
    torch.testing.assert_close(after, expected)


@pytest.mark.parametrize("integrator", ["em", "sscs"])
def test_a_step_with_increasing_beta_equals_a_step_by_hand(integrator):
    """The score is multiplied by the diffusion at the time of its evaluation, the start of the
    step."""
    process = phase_space(0.25, beta_min=0.1, beta_max=20.0)
    settings = sde(integrator, striding="uniform", steps=2, denoise=False)
    t, s = settings.time_grid(process)[:2]
    start, xi = (torch.randn(3, 2, 4, 4, dtype=torch.float64) for _ in range(2))
    middle, delta, seen = (t + s) / 2, t - s, []

    def score(z, time):
        seen.append(time)
        return Prediction(eps=torch.zeros_like(z), gradient=torch.tanh(z))

    (_, z) = list(path(process, settings, score, start, lambda z: xi))[1]
    diffusion = process.diffusion_squared(t)[0]
    if integrator == "em":
        drift, root = process.drift(t)[0], process.diffusion(t)[0]
        expected = start + delta * mix(diffusion, torch.tanh(start)) - delta * mix(drift, start)
        expected = expected + delta.sqrt() * mix(root, xi)
    else:
        expected = start
        for first, last in ((t, middle), (middle, s)):
            # Return the moments of the process with reversed Q, from small steps of the moment
            # equations.
            phi, covariance = reversed_moments(process, first, last)
            expected = mix(phi, expected) + mix(torch.linalg.cholesky(covariance), xi)
            if last is middle:
                pull = mix(torch.linalg.inv(process.S), expected) + torch.tanh(expected)
                expected = expected + delta * mix(diffusion, pull)
    assert seen[0] == pytest.approx(float(t))
    torch.testing.assert_close(z, expected, rtol=1e-3, atol=1e-4)


def reversed_moments(process, first, last, steps: int = 400):
    """Return Φ and the covariance of dz = −β (D − Q) S⁻¹ z ds + √(2βD) dw by Heun's method."""
    rate = (process.D - process.Q) @ torch.linalg.inv(process.S)
    phi, covariance, h = torch.eye(2).double(), torch.zeros(2, 2).double(), (first - last) / steps

    def slopes(phi, covariance, t):
        beta = process.beta(t)[0]
        moved = rate @ covariance
        return -beta * rate @ phi, beta * (2 * process.D - moved - moved.T)

    for index in range(steps):
        t = first - index * h
        a = slopes(phi, covariance, t)
        b = slopes(phi + h * a[0], covariance + h * a[1], t - h)
        phi, covariance = phi + h / 2 * (a[0] + b[0]), covariance + h / 2 * (a[1] + b[1])
    return phi, covariance


def pulls_to_three(z, t):
    return Prediction(eps=torch.zeros_like(z), gradient=3 - z)


@pytest.mark.parametrize(
    ("settings", "share"),
    [
        (EMSettings(integrator="em", striding="uniform", steps=3), 1.0),
        (SSCSSettings(integrator="sscs", striding="uniform", steps=3), 1.0),
        (RK45Settings(integrator="rk45", tolerance=1e-2), 0.5),
    ],
    ids=lambda value: getattr(value, "integrator", ""),
)
def test_the_denoising_step_solves_the_equation_of_the_sampler(settings, share):
    """The score has half the weight in the probability-flow ODE as in the SDE."""
    process, _, _, start, noise = arguments(settings)
    (_, before), (_, after) = list(path(process, settings, pulls_to_three, start, noise))[-2:]
    time = torch.tensor([settings.final_time], dtype=torch.float64)
    drift = mix(process.drift(time)[0], before)
    pull = mix(share * process.diffusion_squared(time)[0], 3 - before)
    torch.testing.assert_close(after, before + 1e-3 * (pull - drift), rtol=2e-6, atol=1e-5)
