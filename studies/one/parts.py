"""A custom measure: the fraction of samples that copy a training image or its mirror image."""

from math import isqrt
from typing import TYPE_CHECKING

from pydantic import Field

from psld.parts import Measure

if TYPE_CHECKING:
    from torch import Tensor


class Copies(Measure):
    """The fraction of samples that copy a training image or its mirror image, in pixels.

    The measure is `memorization`, with the mirror images as additional training images.
    """

    word = "mirrored-memorization"
    extractors = ("pixels",)
    references = ("train",)
    needs_test = True

    quantile: float = Field(default=0.05, gt=0, lt=1)
    """The fraction of test images that are nearer to a training or mirror image than the
    threshold."""

    def estimate(self, samples, reference, blocks, device):
        import torch

        from psld.metrics.distances import memorization

        images = samples, reference.train, reference.split("test")
        samples, train, test = (each.on(device) for each in images)
        both = torch.cat([train, mirrored(train)])
        return memorization(samples, both, test, self.quantile, blocks)._replace(nearest=None)


def mirrored(pixels: "Tensor") -> "Tensor":
    """Return the mirror images of n images, n×(C·side²), with C = 1 or 3 channels."""
    channels = 1 if isqrt(pixels.shape[1]) ** 2 == pixels.shape[1] else 3
    side = isqrt(pixels.shape[1] // channels)
    return pixels.view(-1, channels, side, side).flip(3).flatten(1)
