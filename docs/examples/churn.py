r"""A sampler with two evaluations per step: Heun's method with churn (Karras et al., 2022).

    psld sample model=models/demo/psld-0.02 sampler=churn:Heun sampler.striding=edm \
        sampler.steps=35 shard_size=64 output=samples/churn

In Python: model.sample(64, sampler="churn:Heun", striding="edm", steps=35, s_churn=0.0).

A sampler for plain noise can be used with every process. A state z depends on its image only
through y = x₀ + σ n: z = R [y/σ, u], with the straight root R of the covariance
(psld/diffusion/roots.py) and u ~ N(0, I). u is independent of y and does not change. A step
transforms z to y, moves y, and transforms y back to z.

- `step` receives a score. `DataPrediction` turns it into the denoiser D(y; σ) at tabulated times.
- `times` and `ends` are the times at which the steps start and end; 0 is the data.
- `draws` is the total number of calls of `noise` in all steps.
- `replacement_times` is None because the steps insert the known pixels of an inpainting into D.
"""

import torch

from psld.diffusion.denoiser import DataPrediction
from psld.diffusion.matrices import mix, table
from psld.diffusion.roots import whitening_root
from psld.diffusion.time_grid import time_of_noise_level
from psld.parts import TimeGridSampler


class Heun(TimeGridSampler):
    """Algorithm 2 of Karras et al. (2022), on dy/dσ = (y − D(y; σ)) / σ.

    `steps` counts evaluations: 2N − 1 for N noise levels. The defaults are the values of Karras et
    al. for their network for ImageNet at 64×64. The sampler is deterministic if `s_churn` is 0.
    """

    s_churn: float = 40.0
    """S_churn: each step first raises σ to (1 + γ) σ, γ = min(S_churn / N, √2 − 1), but not above
    the first level."""
    s_tmin: float = 0.05
    """The lowest level that is raised."""
    s_tmax: float = 50.0
    """The highest level that is raised."""
    s_noise: float = 1.003
    """The standard deviation of the added noise, relative to the exact value."""

    @property
    def grid_steps(self):  # If `steps` is even, the last step has only one evaluation.
        return (self.steps - self.denoise + 1) // 2

    def build(self, process, device, inpainting=None):
        return Steps(self, process, device, inpainting)


class Steps:
    replacement_times = None

    def __init__(self, settings, process, device, inpainting):
        self.blocks, self.inpainting = process.blocks, inpainting
        self.evaluations = settings.steps - settings.denoise
        grid = settings.time_grid(process)
        self.ends = [*grid[1:].tolist(), *([0.0] if settings.denoise else [])]
        self.times = grid[: len(self.ends)].tolist()

        sigma = process.noise_level(grid)
        gamma = min(settings.s_churn / len(self.ends), 2**0.5 - 1)
        raised = (settings.s_tmin <= sigma) & (sigma <= settings.s_tmax)
        churned = torch.where(raised, (1 + gamma) * sigma, sigma).clamp(max=sigma[0])
        added = settings.s_noise * (churned**2 - sigma**2).sqrt()
        self.added = added[: len(self.ends)].tolist()
        self.draws = sum(each > 0 for each in self.added)

        # All tables have this order: the levels of the grid, then the raised levels.
        self.count, self.levels = len(grid), [*sigma.tolist(), *churned.tolist()]
        times = torch.cat([grid, time_of_noise_level(process, churned, float(grid[-1]))])
        root = whitening_root(process, "straight", float(grid[-1]))(times)
        self.root, self.inverse = table(root, device), table(torch.linalg.inv(root), device)
        self.predict = DataPrediction(process, times, device)

    def step(self, index, z, score, noise):
        before, after = self.count + index, index + 1
        whitened, channels = mix(self.inverse[index], z), z.shape[1] // self.blocks
        y, u = self.levels[index] * whitened[:, :channels], whitened[:, channels:]
        if self.added[index] > 0:
            y = y + self.added[index] * noise(z)[:, :channels]
        slope = self.slope(before, y, u, score)
        if self.ends[index] == 0:
            return torch.cat([y - self.levels[before] * slope, z[:, channels:]], dim=1)
        span = self.levels[after] - self.levels[before]
        end = y + span * slope
        if 2 * index + 2 <= self.evaluations:
            end = y + span * (slope + self.slope(after, end, u, score)) / 2
        return self.state(after, end, u)

    def slope(self, level, y, u, score):
        image = self.predict(level, self.state(level, y, u), score)
        if self.inpainting:
            image = self.inpainting.combine(image, self.inpainting.images)
        return (y - image) / self.levels[level]

    def state(self, level, y, u):
        return mix(self.root[level], torch.cat([y / self.levels[level], u], dim=1))
