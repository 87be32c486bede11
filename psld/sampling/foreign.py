"""A denoiser of somebody else, D(y, σ), as the network of every process."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from psld.diffusion.denoiser import SeesImages, check_levels, every_block
from psld.diffusion.gaussian import GaussianData
from psld.diffusion.process import LinearProcess
from psld.diffusion.samplers import SamplerSettings, TimeGridSampler
from psld.diffusion.score import Batching
from psld.diffusion.time_grid import level_range, time_of_noise_level
from psld.networks.forward import forward_pass
from psld.sampling.sample import ImageSampler, with_start
from psld.training.mixture import SamplerStart, measure_start
from psld.training.settings import Start
from psld.utils.device import device_of
from psld.utils.errors import UserError

WHITE = 10.0
"""The noise level from which images are as good as white noise, of any mean and covariance."""


@dataclass(frozen=True)
class ForeignNetwork:
    """A network D(y, σ) of images, N×C×H×W, on [−1, 1], and the noise levels that it takes."""

    network: nn.Module
    shape: tuple[int, int, int]
    sigma_min: float
    sigma_max: float
    images: Tensor | None

    def __repr__(self) -> str:
        size, levels = "×".join(map(str, self.shape)), f"{self.sigma_min:g} to {self.sigma_max:g}"
        kind = type(self.network).__name__
        return f"<{type(self).__name__} {kind}: every process, {size}, noise levels {levels}>"

    @cached_property
    def start(self) -> SamplerStart | None:
        """The start of samplers; None without images."""
        if self.images is None:
            return None
        return measure_start(self.images.numpy(), device_of(self.network), Start())

    def fitted(self, sampler: SamplerSettings, process: LinearProcess) -> SamplerSettings:
        """Return a sampler with the noise levels that the network takes.

        In place of the prior it begins at `sigma_max`, as samplers of such networks do, if that
        hides the images.
        """
        low, high = level_range(process, sampler.final_time)
        fits: dict[str, object] = {}
        if not sampler.starts_from_data and WHITE <= self.sigma_max < high:
            fits |= {"start": "gaussian", "start_level": self.sigma_max}
        if low < self.sigma_min:
            level = torch.tensor([self.sigma_min], dtype=torch.float64)
            fits["final_time"] = float(time_of_noise_level(process, level, sampler.final_time))
        return sampler.model_copy(update=fits)

    def sampler(
        self, process: LinearProcess, settings: SamplerSettings, batch_size: int
    ) -> ImageSampler:
        """Return how images are sampled. Raises UserError for noise levels that it does not take.

        Without images, a start at a level is that of white noise.
        """
        if settings.asks_for_classes:
            raise UserError("sampler.guidance: the network has no classes; bind one to it")
        process, device = every_block(process), device_of(self.network)
        start = None
        if isinstance(settings, TimeGridSampler) and settings.starts_from_data:
            start = self.start
            if start is None and settings.evaluations and settings.start_level == self.sigma_max:
                start = _white(self.shape)
        settings, gaussian = with_start(settings, process, start, device, self.sigma_max)
        other = (
            "give images= and sample with few, or sigma_min=0 and sigma_max=inf if the network "
            "takes any level"
        )
        levels = settings.noise_levels(process)
        check_levels(levels, self.sigma_min, self.sigma_max, "network", other)
        eps = SeesImages(process, forward_pass(self.network, settings.precision), gives_image=True)
        given = process, settings, eps, self.network, self.shape, Batching(batch_size)
        return ImageSampler(*given, gaussian=gaussian)


def _white(shape: tuple[int, int, int]) -> SamplerStart:
    """Return the start of images of mean 0 and variance 1, at a level that is given."""
    values, one = torch.Size(shape).numel(), torch.ones(1, dtype=torch.float32)
    moments = one.new_zeros(1, values), torch.eye(values, 1).to(one), one[None, None], one
    return SamplerStart(GaussianData.one(shape, *moments), one)
