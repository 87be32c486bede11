"""The start of samplers in a model's folder: the Gaussian of its training images, and its cost."""

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from psld.data.store import ImageStore, from_uint8
from psld.diffusion.denoiser import StraightDenoiser
from psld.diffusion.gaussian import GaussianData
from psld.diffusion.process import LinearProcess
from psld.diffusion.score import Network
from psld.utils.device import all_bits
from psld.utils.errors import UserError
from psld.utils.randomness import Stream, generator
from psld.utils.tensors import load_tensors, save_tensors

START = "start.safetensors"
CHUNK = 1 << 24
"""Values of images that are on the device at once."""
LOWEST_LEVEL = 0.7
LEVELS = 19
"""The cost of a start is measured at so many noise levels, up to those where it is nothing."""
HELD_OUT = 256
"""The largest number of images for it, spread evenly over the split."""
BATCH = 64

NATS = 0.0025
"""What a start may cost per value of an image, times the square of the number of evaluations."""

Denoise = Callable[[Tensor, Tensor], Tensor]
"""D(y, σ): images y, N×C×H×W, and noise levels, N → the predicted images."""


@dataclass(frozen=True)
class SamplerStart:
    """The Gaussian with the data's mean and covariance, and what it costs to start from it."""

    data: GaussianData
    levels: Tensor
    """Noise levels σ, rising."""
    nats: Tensor
    """The cost of a start at each level: the divergence of noisy images from the Gaussian."""
    sha256: str = ""
    """The digest of its file."""

    def level(self, steps: int) -> float:
        """Return σ₀ for so many evaluations: the lowest level that costs at most 0.0025/N² nats
        per value of an image, or the highest if no level's cost is known or above 0.
        """
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
def measure_start(
    passes: Callable[[], Iterator[tuple[Tensor, Tensor]]],
    num_classes: int,
    held_out: np.ndarray,
    denoise: Denoise | None,
    device: torch.device,
    highest: float = math.inf,
) -> SamplerStart:
    """Measure the Gaussian of the training images, and the cost of a start at each level.

    Without a denoiser the costs are not known (NaN).

    With held-out images y = x₀ + σ n, W the Wiener filter of the Gaussian and D the best denoiser,
    the divergence of the law of y from the Gaussian is, because its derivative is the gain of D
    over W (Verdú, 2010),

        KL(σ₀) = ∫_{σ₀}^∞ (E‖x₀ − W(y)‖² − E‖x₀ − D(y)‖²) σ⁻³ dσ.

    With a trained network for D it is a lower bound, up to the sampling error of the images. Where
    the network is worse than the filter, the integrand is 0. The held-out images have no label and
    are not flipped.

    Args:
        passes, num_classes: the training images, as in `GaussianData.measure`.
        held_out: uint8 N×C×H×W; 256 of them are taken, evenly.
        highest: the highest level that the network takes.

    Raises UserError if the network predicts NaN, or takes no level of a start.
    """
    if highest <= LOWEST_LEVEL:
        raise UserError(f"start: from {LOWEST_LEVEL:g} on; the network takes {highest:g} at most")
    data = GaussianData.measure(passes, num_classes)
    # Well above the largest deviation in any direction, the noise hides what is not Gaussian.
    largest = float(torch.linalg.eigvalsh(data.covariances[0]).max()) ** 0.5
    levels = np.geomspace(LOWEST_LEVEL, min(highest, max(8.0, 3 * largest)), LEVELS)
    if denoise is None:
        return SamplerStart(data, torch.from_numpy(levels), torch.full((LEVELS,), torch.nan))
    chosen = np.linspace(0, len(held_out) - 1, min(HELD_OUT, len(held_out))).astype(int)
    x0 = from_uint8(torch.from_numpy(held_out[chosen]))
    stream = generator("cpu", 0, Stream.START)
    noise = torch.randn(x0.shape, generator=stream).to(device)
    x0, on_device = x0.to(device), data.to(device)
    gains = []
    for sigma in levels.tolist():
        y, sigmas = x0 + sigma * noise, torch.full((BATCH,), sigma, device=device)
        filtered = on_device.posterior_mean(y, sigma)
        predicted = torch.cat([denoise(part, sigmas[: len(part)]) for part in y.split(BATCH)])
        errors = [(each - x0).square().sum() / len(x0) for each in (filtered, predicted)]
        if not errors[1].isfinite():
            raise UserError(f"start: the network's prediction at σ = {sigma:.3g} is not finite")
        gains.append(max(0.0, float(errors[0] - errors[1])) / sigma**2)
    steps = np.diff(np.log(levels)) * (np.array(gains)[1:] + np.array(gains)[:-1]) / 2
    nats = np.append(np.cumsum(steps[::-1])[::-1], 0.0)
    return SamplerStart(data, torch.from_numpy(levels), torch.from_numpy(nats))


def start_of(
    images: Tensor, denoise: Denoise, device: torch.device, highest: float
) -> SamplerStart:
    """Measure the start of images, uint8 N×C×H×W, which are held-out images as well."""
    seen = images.cpu().numpy()
    passes = passes_over(seen, np.zeros(len(seen), np.int64), False, device)
    return measure_start(passes, 0, seen, denoise, device, highest)


def denoiser_of_states(process: LinearProcess, network: Network) -> Denoise | None:
    """Return the denoiser of an ε-network of a process; None if ε does not determine the image.

    The coordinates that a state has besides y are drawn from one stream.
    """
    stream = generator("cpu", 1, Stream.START)
    try:
        denoiser = StraightDenoiser(process, network, torch.empty(0))
    except UserError:
        return None

    def denoise(y: Tensor, sigma: Tensor) -> Tensor:
        shape = (len(y), (process.blocks - 1) * y.shape[1], *y.shape[2:])
        denoiser.frozen = torch.randn(shape, generator=stream).to(y)
        return denoiser(y, sigma)

    return denoise


def save_start(
    folder: Path,
    store: ImageStore,
    flip: bool,
    denoise: Denoise | None,
    weights_sha256: str,
    device: torch.device,
) -> None:
    """Measure the start of a model, and write it into the model's folder, unless it is there."""
    with suppress(UserError):
        load_start(folder, weights_sha256)
        return
    train = passes_over(store.images("train"), store.labels("train"), flip, device)
    # Without a test split, what the network has memorized counts as gain.
    held_out = store.images("test" if store.splits["test"] else "train")
    start = measure_start(train, store.num_classes, held_out, denoise, device)
    arrays = start.data.arrays() | {"levels": start.levels, "nats": start.nats}
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
    levels, nats = arrays.pop("levels"), arrays.pop("nats")
    return SamplerStart(GaussianData.from_arrays(arrays), levels, nats, stored.sha256)
