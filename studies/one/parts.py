"""Copies of mirrored training images: a measure of this study, a part of one's own."""

from math import isqrt
from typing import TYPE_CHECKING

from pydantic import Field

from psld.parts import Measure

if TYPE_CHECKING:
    from torch import Tensor


class Copies(Measure):
    """As memorization, of training images and their mirror images: in pixels."""

    word = "mirrored-memorization"
    extractors = ("pixels",)
    references = ("train",)
    needs_test = True

    quantile: float = Field(default=0.05, gt=0, lt=1)
    """The share of test images that are nearer to one of these than the threshold."""

    def estimate(self, samples, reference, blocks, device):
        import torch

        from psld.metrics.distances import memorization

        images = samples, reference.train, reference.split("test")
        samples, train, test = (each.on(device) for each in images)
        both = torch.cat([train, mirrored(train)])
        return memorization(samples, both, test, self.quantile, blocks)._replace(nearest=None)


def mirrored(pixels: "Tensor") -> "Tensor":
    """Return n×(C·side²) pixels of images with one or three channels, left and right exchanged."""
    channels = 1 if isqrt(pixels.shape[1]) ** 2 == pixels.shape[1] else 3
    side = isqrt(pixels.shape[1] // channels)
    return pixels.view(-1, channels, side, side).flip(3).flatten(1)
