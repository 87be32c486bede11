"""A small classifier that is trained on the dataset and extracts features."""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad, silu

from psld.config.settings import Settings
from psld.data.units import from_uint8
from psld.networks.forward import enough_threads
from psld.utils.errors import RunError, UserError
from psld.utils.numbers import Size
from psld.utils.progress import Progress
from psld.utils.randomness import Stream, generator, stream_seed

COARSEST = 4  # the largest allowed side of the last feature map, in pixels


class ImageShape(Settings):
    """The shape of images, and the number of their classes."""

    channels: int
    image_size: Size
    num_classes: int

    @classmethod
    def of(cls, images: Tensor, labels: Tensor) -> Self:
        """Return the shape of images N×C×H×W and their labels, N."""
        classes, (channels, height, width) = int(labels.max()) + 1, images.shape[1:]
        size = height if height == width else (height, width)
        return cls(channels=channels, image_size=size, num_classes=classes)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        side = self.image_size
        return (side, side) if isinstance(side, int) else side


class FeatureClassifier(nn.Module):
    """A convolutional network that halves images until they are at most 4×4, with a linear head.

    The d features are taken *before* the last nonlinearity, where their distribution is closest to
    the Gaussian distribution that a Fréchet distance assumes. Each feature is standardized to mean
    0 and variance 1 over the training split. This fixes the scale of Fréchet distances, because the
    covariance of the training features then has the trace d.
    """

    def __init__(self, shape: ImageShape, width: int, features: int) -> None:
        super().__init__()
        architecture = {"width": width, "features": features}
        self.architecture = json.dumps(architecture | shape.model_dump(), sort_keys=True)
        self.image = (shape.channels, *shape.size)
        self.body = nn.Sequential(*_body(shape, width, features))
        self.standardise = nn.BatchNorm1d(features, affine=False)
        self.head = nn.Linear(features, shape.num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map uint8 images N×C×H×W → features N×d and logits N×classes."""
        if images.dtype != torch.uint8 or images.shape[1:] != self.image:
            raise UserError(
                f"the feature classifier accepts uint8 images of {self.image}, "
                f"not {images.dtype} of {tuple(images.shape[1:])}"
            )
        return self.answer(from_uint8(images))

    def answer(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map x in [−1, 1], N×C×H×W → features N×d and logits N×classes."""
        features = self.standardise(self.body(x))
        return features, self.head(silu(features))


def _body(shape: ImageShape, width: int, features: int) -> Iterator[nn.Module]:
    channels, sides = width, shape.size
    yield from _convolution(shape.channels, channels)
    while max(sides) > COARSEST:
        wider = min(2 * channels, 4 * width)
        yield from _convolution(channels, wider, stride=2)
        yield from _convolution(wider, wider)
        channels, sides = wider, ((sides[0] + 1) // 2, (sides[1] + 1) // 2)
    yield nn.Flatten()
    yield nn.Linear(channels * sides[0] * sides[1], features)


def _convolution(inputs: int, outputs: int, stride: int = 1) -> Iterator[nn.Module]:
    yield nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
    yield nn.BatchNorm2d(outputs)
    yield nn.SiLU()


def train_classifier(
    images: Tensor,
    labels: Tensor,
    device: torch.device,
    *,
    width: int,
    features: int,
    steps: int,
    batch_size: int,
    learning_rate: float,
    shift: int,
    seed: int,
) -> FeatureClassifier:
    """Train on uint8 `images` N×C×H×W and integer `labels` N; the seed determines the result.

    `ClassifierSettings` describes the other arguments. Raises RunError if the training diverges.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, Stream.INITIAL_WEIGHTS))
        shape = ImageShape.of(images, labels)
        network = FeatureClassifier(shape, width, features).to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    random = generator("cpu", seed, Stream.BATCH)
    # Train a small network with one thread, as workflow jobs do, so that a run by hand gives
    # bit-identical weights.
    threads = enough_threads(network, batch_size, images[0].numel())
    loss = torch.zeros(())
    with threads, closing(Progress("classifier", "step", steps)) as progress:
        for _ in range(steps):
            index = torch.randint(len(images), (batch_size,), generator=random)
            index = index.to(device, non_blocking=True)
            x = shifted(from_uint8(images[index]), shift, random)
            loss = cross_entropy(network.answer(x)[1], labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            progress.update()
    if not loss.isfinite():  # Check only once, because each check waits for the device.
        raise RunError("the feature classifier diverged; lower metric.extractor.learning_rate")
    return network


@contextmanager
def deterministic() -> Iterator[None]:
    """Restrict cuDNN to deterministic algorithms within the block."""
    # Set attributes instead of calling `cudnn.flags`, which would also change the use of TF32.
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


def shifted(x: Tensor, most: int, random: torch.Generator) -> Tensor:
    """Shift each image randomly by up to `most` pixels per direction, repeating border pixels."""
    n, _, height, width = x.shape
    shift = torch.randint(2 * most + 1, (2, n, 1), generator=random)
    top, left = shift.to(x.device, non_blocking=True)
    padded = pad(x, (most, most, most, most), mode="replicate")
    rows = top + torch.arange(height, device=x.device)
    columns = left + torch.arange(width, device=x.device)
    image = torch.arange(n, device=x.device)[:, None, None]
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
