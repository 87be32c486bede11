"""Inpainting by replacement: the known pixels are put back with the noise of the current time."""

import torch
from torch import Tensor

from psld.diffusion.process import LinearProcess, mix
from psld.diffusion.stepping import Noise, table


class Inpainting:
    """Keep the pixels with mask 1; the sampler fills in the rest.

    After each step, position and momentum of the known pixels are drawn again from the kernel
    N(a x₀, Σ) given the image. EM and SSCS do so at the time at which the step started, which is
    the official sampler's rule, and gDDIM and conjugate integrators at the time that it reached.
    The paper derives imputation from Eq. 13 with the observed part as the condition.

    A sampler that predicts the image needs no new noise: the known pixels are put into its
    prediction, and each step then takes a known pixel from one draw of the kernel to another.
    """

    def __init__(self, process: LinearProcess, images: Tensor, mask: Tensor) -> None:
        """
        Args:
            images: N×C×H×W in [−1, 1]; pixels with mask 0 are ignored.
            mask: N×1×H×W, 1 for a known pixel, else 0.
        """
        self.process = process
        self.images = images
        self.mask = mask.to(images)

    def combine(self, generated: Tensor, known: Tensor) -> Tensor:
        """Take pixels with mask 1 from `known`, the others from `generated`: images or states."""
        return generated * (1 - self.mask) + known.to(generated) * self.mask


class Replacement:
    """The replacement of the known pixels at given forward times, with tabulated kernels."""

    def __init__(self, inpainting: Inpainting, times: list[float]) -> None:
        process, device = inpainting.process, inpainting.images.device
        t = torch.tensor(times, dtype=torch.float64)
        self.inpainting = inpainting
        self.image = table(process.image_mean(t)[:, :, None], device)
        self.factor = table(process.image_factor(t), device)

    def noisy(self, index: int, z: Tensor, noise: Noise) -> Tensor:
        """Put the known pixels back as a draw of the kernel at time `index`."""
        known = mix(self.image[index], self.inpainting.images)
        return self.inpainting.combine(z, known + mix(self.factor[index], noise(z)))

    def mean(self, index: int, z: Tensor) -> Tensor:
        """Put the known pixels back as the mean of the kernel at time `index`."""
        return self.inpainting.combine(z, mix(self.image[index], self.inpainting.images))
