"""The start of samplers in a model's folder: a law of its training images, and noise levels."""

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from psld.data.store import ImageStore, from_uint8
from psld.diffusion.gaussian import GaussianData
from psld.training.mixture import LOWEST_LEVEL, Passes, with_mixture
from psld.utils.device import all_bits
from psld.utils.errors import UserError
from psld.utils.tensors import load_tensors, save_tensors

START = "start.safetensors"
CHUNK = 1 << 24
"""Values of images that are on the device at once."""
SHARES = 0.75, 0.3
"""σ₀ as a share of the largest deviation: of one Gaussian, and of a mixture's components."""
NATS = 0.0025
"""In a file of an earlier version: what a start may cost per value of an image, times N²."""


@dataclass(frozen=True)
class SamplerStart:
    """The law of the images that samplers start from, and the noise levels at which they do."""

    data: GaussianData
    levels: Tensor
    """σ₀ of one Gaussian, and of the mixture; with `nats`, noise levels σ, rising."""
    nats: Tensor | None = None
    """In a file of an earlier version, which has one Gaussian: its divergence from noisy images at
    each level."""
    sha256: str = ""
    """The digest of its file."""

    def level(self, steps: int, mixture: bool = True) -> float:
        """Return σ₀ for so many evaluations, from the mixture or from one Gaussian.

        Only with a file of an earlier version does it depend on them: it is the lowest level that
        costs at most 0.0025/N² nats per value of an image, or the highest if no cost is known or
        above 0.
        """
        if self.nats is None:
            return float(self.levels[int(mixture)])
        budget = NATS * math.prod(self.data.shape) / steps**2
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
    images: np.ndarray, labels: np.ndarray, flip: bool, device: torch.device
) -> Callable[[], Iterator[tuple[Tensor, Tensor]]]:
    """Return a function that yields images in parts: float images and labels on the device.

    With `flip`, each image comes with its mirror image, because a network sees both.
    """

    def passes() -> Iterator[tuple[Tensor, Tensor]]:
        size = max(1, CHUNK // images[0].size)
        for first in range(0, len(images), size):
            chosen = slice(first, first + size)
            x = from_uint8(torch.from_numpy(np.array(images[chosen])).to(device))
            classes = torch.from_numpy(labels[chosen]).to(device)
            yield x, classes
            if flip:
                yield x.flip(-1), classes

    return passes


def deviation(store: ImageStore, flip: bool) -> float:
    """Return the deviation of the training images around their mean, pixel by pixel."""
    total, squares, count = 0.0, 0.0, 0
    images, labels = store.images("train"), store.labels("train")
    for x, _ in passes_over(images, labels, flip, torch.device("cpu"))():
        x = x.double()
        total, squares, count = total + x.sum(0), squares + x.square().sum(0), count + len(x)
    variance = float((squares / count - (total / count).square()).mean())
    return max(variance, 1e-6) ** 0.5


@all_bits()  # the last variances are differences of large sums
@torch.no_grad()
def measure_start(passes: Passes, num_classes: int) -> SamplerStart:
    """Measure the two moments of images, and fit mixtures of Gaussians to them.

    A component looks Gaussian under noise of some part of its largest deviation. So with λ_k the
    largest variance of component k, a start from the mixture begins at

        σ₀ = max(0.3 √(Σ_k w_k λ_k), 0.5),

    and one from one Gaussian at max(0.75 √λ, 0.5).

    Args:
        passes, num_classes: as in `GaussianData.measure`.
    """
    one = GaussianData.measure(passes, num_classes)
    data = with_mixture(one, passes)
    share = SHARES[data.components > 1]
    levels = SHARES[0] * one.largest_deviation(), share * data.largest_deviation()
    return SamplerStart(data, torch.tensor(levels).clamp(min=LOWEST_LEVEL))


def save_start(
    folder: Path, store: ImageStore, flip: bool, weights_sha256: str, device: torch.device
) -> None:
    """Measure the start of a model, and write it into the model's folder, unless it is there."""
    with suppress(UserError):
        load_start(folder, weights_sha256)
        return
    passes = passes_over(store.images("train"), store.labels("train"), flip, device)
    start = measure_start(passes, store.num_classes)
    arrays = start.data.arrays() | {"levels": start.levels}
    save_tensors(folder / START, "start", arrays, {"weights_sha256": weights_sha256})


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
