"""The states on the path of a sampler."""

import pytest
import torch

from psld.diffusion.integrators import EulerMaruyama
from psld.diffusion.loop import path, sample
from psld.diffusion.matrices import mix
from psld.diffusion.samplers import EMSettings, RK45Settings, SSCSSettings
from psld.diffusion.score import NetworkScore
from tests.diffusion.processes import phase_space
from tests.diffusion.sampling import sde

PROCESS = phase_space(0.02)


def test_euler_s_steps_on_the_flow_have_no_noise():
    grid = torch.tensor([1.0, 0.5], dtype=torch.float64)
    z = torch.ones(1, 2, 2, 2)
    flow = EulerMaruyama(PROCESS, grid, z.device, probability_flow=True)
    score = NetworkScore(lambda z, t: z, batch_size=1)
    torch.testing.assert_close(flow.step(0, z, score, torch.ones_like), flow.mean(0, z, score))


def arguments(settings):
    """Of `path` and of `sample`; the same noise each time."""
    stream = torch.Generator().manual_seed(0)

    def noise(z):
        return torch.randn(z.shape, generator=stream)

    start = PROCESS.prior(torch.randn(3, 2, 4, 4, generator=stream))
    return PROCESS, settings, NetworkScore(lambda z, _: z, batch_size=3), start, noise


@pytest.mark.parametrize("denoise", [True, False])
@pytest.mark.parametrize("integrator", ["em", "sscs"])
def test_a_path_has_a_state_at_every_time_of_the_grid(integrator, denoise):
    settings = sde(integrator, striding="quadratic", steps=6, denoise=denoise)
    given = arguments(settings)
    times, states = zip(*path(*given), strict=True)
    assert list(times) == [*settings.time_grid(PROCESS).tolist(), *([0.0] if denoise else [])]
    assert torch.equal(states[0], given[3])
    assert torch.equal(states[-1], sample(*arguments(settings)))
    assert not any(state.requires_grad for state in states)


def test_an_adaptive_sampler_has_no_states_between():
    settings = RK45Settings(integrator="rk45", tolerance=1e-2)
    times, states = zip(*path(*arguments(settings)), strict=True)
    assert list(times) == [1.0, settings.final_time, 0.0]
    assert torch.equal(states[-1], sample(*arguments(settings)))


def pulls_to_three(z, t, matrix):
    return 3 - z


@pytest.mark.parametrize(
    ("settings", "share"),
    [
        (EMSettings(integrator="em", striding="uniform", steps=3), 1.0),
        (SSCSSettings(integrator="sscs", striding="uniform", steps=3), 1.0),
        (RK45Settings(integrator="rk45", tolerance=1e-2), 0.5),
    ],
    ids=lambda value: getattr(value, "integrator", ""),
)
def test_the_denoising_step_is_one_of_the_equation_that_was_solved(settings, share):
    """On the probability-flow ODE the score has half the weight that it has on the SDE."""
    process, _, _, start, noise = arguments(settings)
    (_, before), (_, after) = list(path(process, settings, pulls_to_three, start, noise))[-2:]
    time = torch.tensor([settings.final_time], dtype=torch.float64)
    drift = mix(process.drift(time)[0], before)
    pull = mix(share * process.diffusion_squared(time)[0], 3 - before)
    torch.testing.assert_close(after, before + 1e-3 * (pull - drift), rtol=2e-6, atol=1e-5)
