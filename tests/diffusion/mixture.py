"""Data with a known score: a one-dimensional mixture of Gaussians, and a distribution of images."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from psld.diffusion.denoiser import consistent_eps
from psld.diffusion.gaussian import GaussianData
from psld.diffusion.matrices import mix
from psld.diffusion.process import LinearProcess
from psld.diffusion.score import Network


@dataclass(frozen=True)
class Mixture:
    """A mixture of Gaussians, whose denoiser is known exactly; each pixel is an image."""

    weights: tuple[float, ...]
    """They sum to 1."""
    means: tuple[float, ...]
    deviations: tuple[float, ...]

    def gaussian(self) -> "Mixture":
        """Return the Gaussian with the same mean and variance."""
        parts = list(zip(self.weights, self.means, self.deviations, strict=True))
        mean = sum(w * m for w, m, _ in parts)
        variance = sum(w * (s**2 + (m - mean) ** 2) for w, m, s in parts)
        return Mixture(weights=(1.0,), means=(mean,), deviations=(variance**0.5,))

    def draw(self, choice: Tensor, noise: Tensor) -> Tensor:
        """Return images from standard normal numbers; `choice` selects the Gaussian."""
        weights, means, deviations = (each.flatten() for each in self._parts(noise))
        part = torch.bucketize(torch.special.ndtr(choice), weights.cumsum(dim=0)[:-1])
        return means[part] + deviations[part] * noise

    def denoise(self, y: Tensor, sigma: Tensor) -> Tensor:
        """Return E[x₀ | y] for y = x₀ + σ n; `sigma` broadcasts with y."""
        weights, means, deviations = self._parts(y)
        variance = deviations**2 + sigma**2
        log_parts = weights.log() - 0.5 * variance.log() - 0.5 * (y - means) ** 2 / variance
        shrunk = means + deviations**2 / variance * (y - means)
        return (log_parts.softmax(dim=0) * shrunk).sum(dim=0)

    def network(self, process: LinearProcess) -> Network:
        """Return the network E[ε | z], the result of a perfect training for `process`."""

        def eps(z: Tensor, t: Tensor) -> Tensor:
            times, sample = t.double().cpu().unique(return_inverse=True)
            state, data, row, levels = _coefficients(process, tuple(times.tolist()))
            y = mix(row[sample], z)
            sigma = levels[sample].to(y).view(-1, 1, 1, 1)
            return mix(state[sample], z) - mix(data[sample], self.denoise(y, sigma))

        return eps

    def _parts(self, y: Tensor) -> list[Tensor]:
        """Return weights, means and deviations along a new first dimension of y."""
        parts = self.weights, self.means, self.deviations
        return [y.new_tensor(values).view(-1, *[1] * y.dim()) for values in parts]


@lru_cache(maxsize=10_000)  # Samplers with the same time grid evaluate at the same times.
def _coefficients(process: LinearProcess, at: tuple[float, ...]) -> tuple[Tensor, ...]:
    """Return the coefficients of the process at these times: rows of ε and of y, and σ."""
    times = torch.tensor(at, dtype=torch.float64)
    state, data = consistent_eps(process, times)
    a = process.image_mean(times)[:, :, None]
    row = torch.linalg.solve(process.image_covariance(times), a).mT
    return state, data, row / (row @ a), process.noise_level(times)


def dense(law: GaussianData, group: int) -> Tensor:
    """Return the complete covariance of a group."""
    U = law.basis
    outside = torch.eye(len(U)) - U @ U.T
    return U @ law.covariances[group] @ U.T + law.rests[group] * outside


def component(law: GaussianData, group: int, k: int) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of one component, for all pixel values of an image."""
    V = law.basis @ law.axes[group]
    outside = torch.eye(len(V)) - V @ V.T
    covariance = outside @ dense(law, group) @ outside + V @ law.spreads[group, k] @ V.T
    return law.means[group] + V @ law.centers[group, k], covariance
