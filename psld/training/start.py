"""The start of samplers in a model's folder: a law of its training images, and noise levels."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from psld.data.store import ImageStore, from_uint8
from psld.diffusion.gaussian import GaussianData
from psld.utils.errors import UserError
from psld.utils.tensors import load_tensors

START = "start.safetensors"
CHUNK = 1 << 24
"""Values of images that are on the device at once."""
NATS = 0.0025
"""In a file of an earlier version: what a start may cost per value of an image, times N²."""


@dataclass(frozen=True)
class SamplerStart:
    """The law of the images that samplers start from, and the noise levels at which they do."""

    data: GaussianData = field(repr=False)
    levels: Tensor
    """σ₀ of one Gaussian, and of the mixture, 2×groups; with `nats`, noise levels σ, rising."""
    nats: Tensor | None = field(default=None, repr=False)
    """In a file of an earlier version, which has one Gaussian: its divergence from noisy images at
    each level."""
    sha256: str = ""
    """The digest of its file."""

    def level(self, steps: int, mixture: bool = True, classes: Sequence[int] = ()) -> float:
        """Return σ₀ for so many evaluations, from the mixture or from one Gaussian.

        For classes, it is the largest of theirs. Only with a file of an earlier version does it
        depend on N: it is the lowest level that costs at most 0.0025/N² nats per value of an image,
        or the highest if none does or no cost is known.
        """
        if self.nats is None:
            groups = [1 + each for each in classes] or [0]
            return float(self.levels[int(mixture), groups].max())
        budget = NATS * math.prod(self.data.shape) / max(steps, 1) ** 2
        cheap = (self.nats <= budget).nonzero()
        if not len(cheap) or not self.nats[0]:
            return float(self.levels[-1])
        last = int(cheap[0])
        if last == 0:
            return float(self.levels[0])
        pair, cost = self.levels[last - 1 : last + 1].log(), self.nats[last - 1 : last + 1]
        share = (cost[0] - budget) / (cost[0] - cost[1])
        return float((pair[0] + share * (pair[1] - pair[0])).exp())


def passes_over(
    images: np.ndarray, labels: np.ndarray, device: torch.device
) -> Callable[[], Iterator[tuple[Tensor, Tensor]]]:
    """Return a function that yields images in parts: float images and labels on the device."""

    def passes() -> Iterator[tuple[Tensor, Tensor]]:
        size = max(1, CHUNK // images[0].size)
        for first in range(0, len(images), size):
            chosen = slice(first, first + size)
            x = from_uint8(torch.from_numpy(np.array(images[chosen])).to(device))
            yield x, torch.from_numpy(labels[chosen]).to(device)

    return passes


def views(x: Tensor, flip: bool) -> tuple[Tensor, ...]:
    """Return images and, with `flip`, their mirror images, because a network sees both."""
    return (x, x.flip(-1)) if flip else (x,)


def deviation(store: ImageStore, flip: bool) -> float:
    """Return the deviation of the training images around their mean, pixel by pixel."""
    total, squares, count = 0.0, 0.0, 0
    passes = passes_over(store.images("train"), store.labels("train"), torch.device("cpu"))
    for part, _ in passes():
        for x in views(part.double(), flip):
            total, squares, count = total + x.sum(0), squares + x.square().sum(0), count + len(x)
    variance = float((squares / count - (total / count).square()).mean())
    return max(variance, 1e-6) ** 0.5


def load_start(folder: Path, weights_sha256: str) -> SamplerStart:
    """Read the start of a model.

    Raises UserError if it is missing, damaged, or belongs to other weights.
    """
    path, remedy = folder / START, "train the model again (psld train), or import it with its data"
    stored = load_tensors(path, "start", remedy)
    if stored.origin != {"weights_sha256": weights_sha256}:
        raise UserError(f"{path}: belongs to other weights; {remedy}")
    arrays = stored.tensors()
    levels, nats = arrays.pop("levels"), arrays.pop("nats", None)
    return SamplerStart(GaussianData.from_arrays(arrays), levels, nats, stored.sha256)
