"""Data of known score: a one-dimensional mixture of Gaussians."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from psld.diffusion.denoiser import consistent_eps
from psld.diffusion.matrices import mix
from psld.diffusion.process import LinearProcess
from psld.diffusion.score import Network


@dataclass(frozen=True)
class Mixture:
    """A mixture of Gaussians, whose denoiser is known exactly; each pixel is an image."""

    weights: tuple[float, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]

    def denoise(self, y: Tensor, sigma: Tensor) -> Tensor:
        """E[x₀ | y] for y = x₀ + σ n; `sigma` broadcasts with y."""
        weights, means, deviations = (
            y.new_tensor(values) for values in (self.weights, self.means, self.deviations)
        )
        y, sigma = y[..., None], sigma[..., None]
        variance = deviations**2 + sigma**2
        log_parts = weights.log() - 0.5 * variance.log() - 0.5 * (y - means) ** 2 / variance
        shrunk = means + deviations**2 / variance * (y - means)
        return (log_parts.softmax(dim=-1) * shrunk).sum(dim=-1)

    def network(self, process: LinearProcess) -> Network:
        """The network of a perfect training of `process`, E[ε | z]."""

        def eps(z: Tensor, t: Tensor) -> Tensor:
            times, sample = t.double().cpu().unique(return_inverse=True)
            state, data, row, levels = _coefficients(process, tuple(times.tolist()))
            y = mix(row[sample], z)
            sigma = levels[sample].to(y).view(-1, 1, 1, 1)
            return mix(state[sample], z) - mix(data[sample], self.denoise(y, sigma))

        return eps


@lru_cache(maxsize=10_000)  # Samplers of one time grid meet the same times.
def _coefficients(process: LinearProcess, at: tuple[float, ...]) -> tuple[Tensor, ...]:
    """What the network needs of its process at these times: rows of ε and of y, and σ."""
    times = torch.tensor(at, dtype=torch.float64)
    state, data = consistent_eps(process, times)
    a = process.image_mean(times)[:, :, None]
    row = torch.linalg.solve(process.image_covariance(times), a).mT
    return state, data, row / (row @ a), process.noise_level(times)
