"""The sampling loop: integrator steps from noise to data, then the denoising step."""

from collections.abc import Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from psld.diffusion.inpainting import Inpainting, Replacement
from psld.diffusion.integrators import EulerMaruyama, make_integrator
from psld.diffusion.process import LinearProcess
from psld.diffusion.score import Score
from psld.diffusion.settings import IntegrationSettings, RK45Settings
from psld.diffusion.stepping import Noise


def sample(
    process: LinearProcess,
    settings: IntegrationSettings,
    score: Score,
    z: Tensor,
    noise: Noise,
    inpainting: Inpainting | None = None,
) -> Tensor:
    """Integrate the reverse process from z at T = 1 to the data.

        >>> noise = lambda z: torch.randn(z.shape, generator=generator)
        >>> z = process.prior(torch.randn(n, k * c, h, w, generator=generator))
        >>> x = sample(process, settings, NetworkScore(network, batch_size=64), z, noise)[:, :c]

    Args:
        score: its evaluations are counted in `score.evaluations`.
        z: a draw from the prior, N×kC×H×W.
        noise: called with the state, once per linear update that adds noise.
        inpainting: the known pixels.

    Returns:
        The state at time 0 (without the denoising step: at the final time), N×kC×H×W.

    Raises:
        UserError: the sampler does not suit the process, or cannot inpaint.
    """
    for _, state in path(process, settings, score, z, noise, inpainting):
        end = state
    return end


@torch.no_grad()
def path(
    process: LinearProcess,
    settings: IntegrationSettings,
    score: Score,
    z: Tensor,
    noise: Noise,
    inpainting: Inpainting | None = None,
) -> Iterator[tuple[float, Tensor]]:
    """Yield forward time and state at the start and after each step; arguments as in `sample`."""
    integrator = make_integrator(process, settings, z.device, inpainting)
    replaced = integrator.replacement_times or []
    if inpainting:
        replacement = Replacement(inpainting, [process.T, *replaced, settings.final_time])
        z = replacement.noisy(0, z, noise)
    yield process.T, z
    steps = tqdm(integrator.ends, desc="sampling", unit="step", disable=None, leave=False)
    for index, end in enumerate(steps):
        z = integrator.step(index, z, score, noise)
        if inpainting and replaced:
            z = replacement.noisy(index + 1, z, noise)
        yield end, z
    if settings.denoise and integrator.ends[-1] > 0:
        last = torch.tensor([settings.final_time, 0.0], dtype=torch.float64)
        ode = isinstance(settings, RK45Settings)
        z = EulerMaruyama(process, last, z.device, probability_flow=ode).mean(0, z, score)
        if inpainting:
            z = replacement.mean(-1, z)
        yield 0.0, z
