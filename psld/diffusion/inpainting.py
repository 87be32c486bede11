"""Inpainting by replacement: the known pixels are put back, as noisy as they are supposed to be."""

import torch
from torch import Tensor

from psld.diffusion.process import LinearProcess
from psld.diffusion.stepping import Noise


class Inpainting:
    """Keeps the pixels where `mask` is 1 and lets the sampler fill in the rest.

    After the step that starts at forward time t, position and momentum of the known pixels are
    drawn again from the perturbation kernel at t, given the image. The paper derives imputation
    from Eq. 13 with the observed part as the condition; this is the official sampler's rule.

    A sampler that predicts the image needs no new noise: with `known` in place of its prediction,
    each of its steps takes a known pixel from one draw of the kernel to another one.
    """

    def __init__(self, process: LinearProcess, images: Tensor, mask: Tensor) -> None:
        """
        Args:
            images: N×C×H×W in [−1, 1]; what they hold where the mask is 0 does not matter.
            mask: N×1×H×W, 1 where a pixel is known.
        """
        self.process = process
        self.images = images
        self.mask = mask.to(images)

    def noisy(self, z: Tensor, t: float, noise: Noise) -> Tensor:
        """Put the known pixels back with the noise of forward time t."""
        time = self._times(z, t)
        auxiliary = None
        if self.process.needs_auxiliary_noise:
            auxiliary = noise(z)[:, self.images.shape[1] :]
        return self._combine(z, self.process.perturb(self.images, time, noise(z), auxiliary))

    def mean(self, z: Tensor, t: float) -> Tensor:
        """Put the known pixels back with their mean at forward time t: the end of a sampler."""
        auxiliary = None
        if self.process.needs_auxiliary_noise:
            auxiliary = z[:, self.images.shape[1] :] * 0
        return self._combine(z, self.process.mean(self.images, self._times(z, t), auxiliary))

    def known(self, images: Tensor) -> Tensor:
        """Put the known pixels into predicted images, N×C×H×W."""
        return self._combine(images, self.images)

    def _combine(self, generated: Tensor, known: Tensor) -> Tensor:
        return generated * (1 - self.mask) + known.to(generated) * self.mask

    @staticmethod
    def _times(z: Tensor, t: float) -> Tensor:
        return torch.full((len(z),), t, dtype=torch.float64)
