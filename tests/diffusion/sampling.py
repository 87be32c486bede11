"""Shared parts of sampler tests: networks of known data, and responses of samplers to noise."""

from functools import partial

import torch

from psld.config.kinds import SHIPPED
from psld.diffusion.loop import sample
from psld.diffusion.samplers import (
    EMSettings,
    MultistepSettings,
    RK45Settings,
    SSCSSettings,
    TimeGridSampler,
)
from psld.diffusion.score import NetworkScore
from psld.paper.parts import ConjugateSettings, GDDIMSettings
from tests.diffusion.mixture import Mixture
from tests.diffusion.processes import normal, times

KINDS = tuple(SHIPPED["sampler"])
"""The kinds of all samplers."""
MIXTURE = Mixture(weights=(0.4, 0.6), means=(-0.6, 0.5), deviations=(0.3, 0.2))


def sde(integrator: str, **choice) -> EMSettings | SSCSSettings:
    """Euler–Maruyama or SSCS."""
    return {"em": EMSettings, "sscs": SSCSSettings}[integrator](integrator=integrator, **choice)


def multistep(steps: int, **choice) -> MultistepSettings:
    plain = {"eta": 0, "eta_interval": None, "corrector": False}
    given = {"striding": "quadratic", "final_time": 1e-2} | plain | choice
    return MultistepSettings(integrator="multistep", steps=steps, **given)


def gddim(steps: int, **choice) -> GDDIMSettings:
    given = {"striding": "power", "power": 2, "final_time": 1e-2} | choice
    return GDDIMSettings(integrator="gddim", steps=steps, **given)


def conjugate(steps: int, **choice) -> ConjugateSettings:
    given = {"striding": "quadratic", "final_time": 1e-2} | choice
    return ConjugateSettings(integrator="conjugate", steps=steps, **given)


def rk45(tolerance: float = 1e-7, **choice) -> RK45Settings:
    return RK45Settings(integrator="rk45", tolerance=tolerance, **({"final_time": 1e-2} | choice))


def on_grid(integrator: str, **choice) -> TimeGridSampler:
    """Return a sampler with a time grid, selected by the name of its integrator."""
    made = {"multistep": multistep, "gddim": gddim, "conjugate": conjugate}
    return made.get(integrator, partial(sde, integrator))(**choice)


def gaussian(deviation: float, mean: float = 0.0) -> Mixture:
    return Mixture(weights=(1.0,), means=(mean,), deviations=(deviation,))


def end(process, settings, network=None, count: int = 64, noise=None, inpainting=None, start=None):
    """Return the final states of the sampler from `count` fixed initial states, by default on the
    mixture."""
    z = process.prior(normal(count, process.blocks, 1, 1)) if start is None else start
    score = NetworkScore(network or MIXTURE.network(process), batch_size=len(z))
    return sample(process, settings, score, z, noise, inpainting)


def rms(difference: torch.Tensor) -> float:
    return float(difference.square().mean().sqrt())


def final_moments(process, settings, data: Mixture) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the exact mean and covariance of the final state, from the response to unit noise.

    With Gaussian data, every step is affine, so each unit vector of noise can be passed through
    separately.
    """
    k, calls = process.blocks, 2 * getattr(settings, "steps", 0)
    first = float(settings.time_grid(process)[0]) if calls else process.T
    mean, covariance = marginal(process, first, data)
    z = torch.zeros(1 + k + k * calls, k, 1, 1, dtype=torch.float64)
    z[:, :, 0, 0] = mean
    z[1 : k + 1, :, 0, 0] += torch.linalg.cholesky(covariance).T
    columns = iter(range(1 + k, len(z), k))

    def unit_noise(z):
        noise, column = torch.zeros_like(z), next(columns)
        noise[column : column + k, :, 0, 0] = torch.eye(k)
        return noise

    score = NetworkScore(data.network(process), batch_size=len(z))
    result = sample(process, settings, score, z, unit_noise).flatten(1)
    response = result[1:] - result[0]
    return result[0], response.T @ response


def marginal(process, t: float, data: Mixture) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and covariance of z_t for Gaussian data."""
    a, covariance = process.image_mean(times(t))[0], process.image_covariance(times(t))[0]
    return data.means[0] * a, covariance + data.deviations[0] ** 2 * torch.outer(a, a)
