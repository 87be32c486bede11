"""The sampling loop: integrator steps, replacement of known pixels, and the denoising step."""

from collections.abc import Iterator
from contextlib import closing

import torch
from torch import Tensor

from psld.diffusion.integrators import EulerMaruyama, Inpainting, Noise, Sampler
from psld.diffusion.matrices import mix, table
from psld.diffusion.process import LinearProcess
from psld.diffusion.score import Score
from psld.utils.progress import Progress


class Replacement:
    """Replacement of the known pixels at given forward times, with tabulated kernels."""

    def __init__(self, inpainting: Inpainting, times: list[float]) -> None:
        process, device = inpainting.process, inpainting.images.device
        t = torch.tensor(times, dtype=torch.float64)
        self.inpainting = inpainting
        self.image = table(process.image_mean(t)[:, :, None], device)
        self.factor = table(process.image_factor(t), device)

    def noisy(self, index: int, z: Tensor, noise: Noise) -> Tensor:
        """Replace the known pixels by a draw from the kernel at time `index`."""
        known = mix(self.image[index], self.inpainting.images)
        return self.inpainting.combine(z, known + mix(self.factor[index], noise(z)))

    def mean(self, index: int, z: Tensor) -> Tensor:
        """Replace the known pixels by the mean of the kernel at time `index`."""
        return self.inpainting.combine(z, mix(self.image[index], self.inpainting.images))


def sample(
    process: LinearProcess,
    sampler: Sampler,
    score: Score,
    z: Tensor,
    noise: Noise,
    inpainting: Inpainting | None = None,
    silent: bool = False,
) -> Tensor:
    """Integrate the reverse process from z, at the first time of the sampler, to the data.

        >>> noise = lambda z: torch.randn(z.shape, generator=generator)
        >>> z = process.prior(torch.randn(n, k * c, h, w, generator=generator))
        >>> x = sample(process, sampler, NetworkScore(network, batch_size=64), z, noise)[:, :c]

    Args:
        sampler: the settings of a sampler (`psld.diffusion.samplers`).
        score: the score, including guidance; `score.evaluations` counts its network evaluations.
        z: a draw from the prior, or from `psld.diffusion.gaussian.GaussianStart`, N×kC×H×W.
        noise: draws standard normal noise in the shape of the state; called once per linear update
            that adds noise. If `noise` has a method `expect`, the loop first calls this method with
            the number of draws.
        inpainting: the known pixels.
        silent: hide the progress.

    Returns:
        The state, N×kC×H×W, at time 0 or, without the denoising step, at the final time.

    Raises:
        UserError: the sampler does not suit the process, or cannot inpaint.
    """
    for _, state in path(process, sampler, score, z, noise, inpainting, silent):
        z = state
    return z


@torch.no_grad()
def path(
    process: LinearProcess,
    sampler: Sampler,
    score: Score,
    z: Tensor,
    noise: Noise,
    inpainting: Inpainting | None = None,
    silent: bool = False,
) -> Iterator[tuple[float, Tensor]]:
    """Yield the forward time and the state, initially and after each step.

    `sample` describes the arguments.
    """
    integrator = sampler.build(process, z.device, inpainting)
    replaced = integrator.replacement_times or []
    draws = integrator.draws + (1 + len(replaced) if inpainting else 0)
    final_time = [*integrator.times[:1], *(t for t in integrator.ends if t > 0)][-1]
    if expect := getattr(noise, "expect", None):
        expect(draws)
    replacement = inpainting and Replacement(inpainting, [process.T, *replaced, final_time])
    if replacement:
        z = replacement.noisy(0, z, noise)
    yield integrator.times[0], z
    steps = Progress("sampling", "step", len(integrator.ends), silent=silent, leave=False)
    with closing(steps):
        for index, end in enumerate(integrator.ends):
            z = integrator.step(index, z, score, noise)
            if replacement and replaced:
                z = replacement.noisy(index + 1, z, noise)
            yield end, z
            steps.update()
    if sampler.denoise and integrator.ends[-1] > 0:
        last = torch.tensor([final_time, 0.0], dtype=torch.float64)
        ode = getattr(integrator, "ode", False)
        z = EulerMaruyama(process, last, z.device, probability_flow=ode).mean(0, z, score)
        if replacement:
            z = replacement.mean(-1, z)
        yield 0.0, z
