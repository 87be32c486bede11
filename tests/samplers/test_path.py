"""The states that a sampler goes through."""

import pytest
import torch

from psld.processes.instances import psld
from psld.samplers.loop import path, sample
from psld.samplers.score import NetworkScore
from psld.samplers.settings import ODESamplerSettings, SDESamplerSettings
from psld.samplers.time_grid import time_grid

PROCESS = psld(0.02, 4.02)


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
    settings = SDESamplerSettings(
        integrator=integrator, striding="quadratic", steps=6, denoise=denoise
    )
    given = arguments(settings)
    times, states = zip(*path(*given), strict=True)
    assert list(times) == [*time_grid(settings).tolist(), *([0.0] if denoise else [])]
    assert torch.equal(states[0], given[3])
    assert torch.equal(states[-1], sample(*arguments(settings)))
    assert not any(state.requires_grad for state in states)


def test_an_adaptive_sampler_has_no_states_between():
    settings = ODESamplerSettings(integrator="rk45", tolerance=1e-2)
    times, states = zip(*path(*arguments(settings)), strict=True)
    assert list(times) == [1.0, settings.final_time, 0.0]
    assert torch.equal(states[-1], sample(*arguments(settings)))
