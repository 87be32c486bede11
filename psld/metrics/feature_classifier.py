"""A small convolutional classifier whose last hidden layer gives the features of a dataset."""

import json
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from psld.config.settings import Settings
from psld.data.pixels import from_uint8
from psld.metrics.extractor import digest_of_weights
from psld.metrics.settings import ClassifierSettings
from psld.utils.errors import UserError

COARSEST = 4  # images are halved until both sides are at most this long


class ImageShape(Settings):
    """The images and labels of a classifier."""

    channels: int
    """1 or 3."""
    image_size: int
    """Pixels along a side."""
    num_classes: int
    """Number of labels."""


class FeatureClassifier(nn.Module):
    """A network of convolutions that halve the image down to 4×4, d features, and a linear head.

    The features are taken *before* the last nonlinearity, because there they are nearest to the
    Gaussian that a Fréchet distance assumes. They are standardized: over the training split each
    has mean 0 and variance 1, so the trace of their covariance is d and distances have a scale.
    """

    def __init__(self, settings: ClassifierSettings, shape: ImageShape) -> None:
        super().__init__()
        self.body = nn.Sequential(*_body(settings, shape))
        self.standardise = nn.BatchNorm1d(settings.features, affine=False)
        self.head = nn.Linear(settings.features, shape.num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Map x in [−1, 1], N×C×H×W → features N×d."""
        return self.standardise(self.body(x))

    def classify(self, features: Tensor) -> Tensor:
        """Map features N×d → logits N×classes."""
        return self.head(silu(features))

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x))


def _body(settings: ClassifierSettings, shape: ImageShape) -> Iterator[nn.Module]:
    channels, side = settings.width, shape.image_size
    yield from _convolution(shape.channels, channels)
    while side > COARSEST:
        wider = min(2 * channels, 4 * settings.width)
        yield from _convolution(channels, wider, stride=2)
        yield from _convolution(wider, wider)
        channels, side = wider, (side + 1) // 2
    yield nn.Flatten()
    yield nn.Linear(channels * side**2, settings.features)


def _convolution(inputs: int, outputs: int, stride: int = 1) -> Iterator[nn.Module]:
    yield nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
    yield nn.BatchNorm2d(outputs)
    yield nn.SiLU()


class ClassifierExtractor:
    """A trained classifier as an extractor of its features."""

    def __init__(
        self,
        network: FeatureClassifier,
        settings: ClassifierSettings,
        shape: ImageShape,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.dimension = settings.features
        self.shape = shape
        self.network = network.to(self.device).eval().requires_grad_(False)
        architecture = {"width": settings.width, "features": settings.features}
        self.architecture = json.dumps(architecture | shape.model_dump(), sort_keys=True)
        self.digest = digest_of_weights(self.architecture, network.state_dict())

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map uint8 N×C×H×W → features N×d and logits N×classes."""
        features = self.network.features(self._input(images))
        return features, self.network.classify(features)

    def _input(self, images: Tensor) -> Tensor:
        expected = (self.shape.channels, self.shape.image_size, self.shape.image_size)
        if images.dtype != torch.uint8 or images.shape[1:] != expected:
            raise UserError(
                f"the feature classifier takes uint8 images of {expected}, "
                f"not {images.dtype} of {tuple(images.shape[1:])}"
            )
        return from_uint8(images.to(self.device))
