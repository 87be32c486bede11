"""Analysis of a process before training: its effect on images, and sampler errors on known data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from psld.diffusion.data_prediction import consistent_eps
from psld.diffusion.loop import sample
from psld.diffusion.process import LinearProcess, mix
from psld.diffusion.score import Network, NetworkScore
from psld.diffusion.settings import IntegrationSettings, RK45Settings
from psld.diffusion.time_grid import time_of_noise_level
from psld.utils.errors import UserError


def time_spent(process: LinearProcess, levels: Tensor, final_time: float = 1e-5) -> Tensor:
    """Return the share of the times in [0, 1] between N rising noise levels σ_eff, N − 1 numbers.

    Training draws times uniformly, so this is also the share of training for each range of noise.
    """
    return time_of_noise_level(process, levels.double(), final_time).diff()


@dataclass(frozen=True)
class Mixture:
    """A one-dimensional mixture of Gaussians, whose denoiser is known exactly."""

    weights: tuple[float, ...] = (0.3, 0.5, 0.2)
    means: tuple[float, ...] = (-0.7, 0.2, 0.8)
    deviations: tuple[float, ...] = (0.05, 0.1, 0.03)

    def denoise(self, y: Tensor, sigma: Tensor) -> Tensor:
        """Return E[x₀ | y] for y = x₀ + σ n; `sigma` broadcasts with y."""
        weights, means, deviations = self._parts(y)
        y, sigma = y[..., None], sigma[..., None]
        variance = deviations**2 + sigma**2
        log_parts = weights.log() - 0.5 * variance.log() - 0.5 * (y - means) ** 2 / variance
        posterior = log_parts.softmax(dim=-1)
        shrunk = means + deviations**2 / variance * (y - means)
        return (posterior * shrunk).sum(dim=-1)

    def quantiles(self, count: int) -> Tensor:
        """Return the quantiles at (i + ½)/count, by bisection, float64."""
        levels = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        weights, means, deviations = self._parts(levels)
        low = (means - 10 * deviations).min().expand(count)
        high = (means + 10 * deviations).max().expand(count)
        for _ in range(60):
            middle = (low + high) / 2
            below = torch.special.ndtr((middle[:, None] - means) / deviations) @ weights < levels
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return high

    def network(self, process: LinearProcess) -> Network:
        """Return the ideal network of `process` on this data, E[ε | z]; each pixel is an image."""

        def eps(z: Tensor, t: Tensor) -> Tensor:
            times, sample = t.double().cpu().unique(return_inverse=True)
            state, data = consistent_eps(process, times)
            a = process.image_mean(times)[:, :, None]
            row = torch.linalg.solve(process.image_covariance(times), a).mT
            y = mix((row / (row @ a))[sample], z)
            sigma = process.noise_level(times)[sample].to(y).view(-1, 1, 1, 1)
            return mix(state[sample], z) - mix(data[sample], self.denoise(y, sigma))

        return eps

    def _parts(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weights, means, deviations = (
            torch.tensor(values, dtype=like.dtype, device=like.device)
            for values in (self.weights, self.means, self.deviations)
        )
        return weights / weights.sum(), means, deviations


@dataclass(frozen=True)
class Comparison:
    """One sampler on one process and mixture."""

    sampler: str
    evaluations: int
    """Network evaluations per image."""
    distance: float
    """1-Wasserstein distance from the samples to the data."""


def measure_sampler(
    name: str,
    settings: IntegrationSettings,
    process: LinearProcess,
    mixture: Mixture = Mixture(),
    *,
    count: int = 4096,
    seed: int = 0,
) -> Comparison:
    """Run a sampler with the exact score, from `count` quasi-random starts.

    The starts are a scrambled Sobol sequence, the same for all samplers. With 4,096 of them, the
    noise of a stochastic sampler changes a distance by about 0.003.

    Raises UserError if the sampler does not suit the process.
    """
    uniform = torch.quasirandom.SobolEngine(process.blocks, scramble=True, seed=seed).draw(count)
    start = torch.special.ndtri(uniform.double().clamp(1e-7, 1 - 1e-7))
    z = process.prior(start.view(count, process.blocks, 1, 1))
    generator = torch.Generator().manual_seed(seed)
    score = NetworkScore(mixture.network(process), batch_size=count)
    end = sample(
        process, settings, score, z, lambda z: torch.randn(z.shape, generator=generator).to(z)
    )
    error = end[:, 0].flatten().sort().values - mixture.quantiles(count)
    return Comparison(name, score.evaluations, float(error.abs().mean()))


@dataclass(frozen=True)
class Trial:
    """The samplers' distances to the data, for one process."""

    evaluations: tuple[int, ...]
    compared: list[Comparison]
    refused: dict[str, str]
    """The reason for each sampler that cannot sample the process."""

    def smallest(self, evaluations: int) -> float:
        """Return the smallest distance of any sampler at a number of evaluations."""
        at = (row.distance for row in self.compared if row.evaluations == evaluations)
        return min(at, default=math.inf)

    @property
    def mean_distance(self) -> float:
        """The geometric mean of the smallest distances: low is good."""
        return math.prod(map(self.smallest, self.evaluations)) ** (1 / len(self.evaluations))


def try_samplers(
    process: LinearProcess,
    samplers: Mapping[str, IntegrationSettings],
    evaluations: tuple[int, ...],
    mixture: Mixture,
    *,
    count: int,
    seed: int,
) -> Trial:
    """Compare samplers at several numbers of evaluations; an adaptive sampler runs once."""
    compared, refused = [], {}
    for name, sampler in samplers.items():
        adaptive = isinstance(sampler, RK45Settings)
        budgets = [{}] if adaptive else [{"steps": steps} for steps in evaluations]
        try:
            for budget in budgets:
                chosen = sampler.model_copy(update=budget)
                row = measure_sampler(name, chosen, process, mixture, count=count, seed=seed)
                compared.append(row)
        except UserError as error:
            refused[name] = str(error)
    return Trial(evaluations, compared, refused)
