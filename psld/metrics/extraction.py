"""Feature extraction: extractors on a device, applied to batches of images."""

import json
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from psld.metrics.features import Device, Features, digest_of_weights
from psld.metrics.settings import Extractor
from psld.utils.batching import Batching
from psld.utils.device import all_bits, float32_by_default
from psld.utils.progress import Progress

KEY = "metric.extractor"


class FeatureExtractor:
    """An extractor on a device. Equal digests mean equal features, up to rounding."""

    def __init__(
        self, part: Extractor, network: Any, device: Device, test_accuracy: float | None = None
    ) -> None:
        """
        Args:
            part: the settings of the extractor.
            network: the result of `part.build` or `part.train`, a module or a function.
            device: the device of the network.
            test_accuracy: the accuracy of a trained classifier on the test split, if there is one.
        """
        self.part, self.device, self.test_accuracy = part, torch.device(device), test_accuracy
        settings = json.dumps(part.identity(), sort_keys=True)
        self.architecture: str = getattr(network, "architecture", settings)
        if isinstance(network, nn.Module):
            network = network.to(self.device).eval().requires_grad_(False)
            own = getattr(network, "digest", None)
        else:
            own = getattr(network, "digest", part.digest)
        self.network: Any = network
        weights = self.network.state_dict() if own is None else {}
        self.digest = str(own()) if own else digest_of_weights(self.architecture, weights)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map uint8 images N×C×H×W on any device → float32 features N×d and logits N×classes.

        The logits are None if the network is not a classifier.
        """
        found: Any = self.network(images.to(self.device))
        features, logits = found if type(found) is tuple else (found, None)
        return features.float(), None if logits is None else logits.float()


def load_extractor(part: Extractor, device: Device = "cpu") -> FeatureExtractor:
    """Build an extractor that needs no training. Raises UserError if its weights are missing."""
    with float32_by_default():
        network = part.build(torch.device(device))
    return FeatureExtractor(part, network, device)


def batches_of(images: np.ndarray, batch_size: int) -> Iterator[Tensor]:
    """Yield batches of a uint8 array or memory map, N×C×H×W, reading each batch when needed."""
    for start in range(0, len(images), batch_size):
        yield torch.from_numpy(np.array(images[start : start + batch_size]))


def gather(
    extractor: FeatureExtractor,
    batches: Iterable[Tensor],
    description: str,
    total: int,
    silent: bool = False,
) -> Features:
    """Return the features, and logits if any, of `total` uint8 images, and show the progress."""
    with closing(Progress(description, "image", total, silent=silent)) as progress:
        return extract(extractor, batches, progress)


@all_bits()
def extract(extractor: FeatureExtractor, batches: Iterable[Tensor], progress: Progress) -> Features:
    """Return the features, and logits if any, of uint8 images, and update `progress`.

    A GPU is synchronized only at the end, so the next batch is read while the GPU computes. If
    memory runs out, batches are halved.
    """
    parts, memory = [], Batching()
    for batch in batches:
        if extractor.device.type == "cuda":
            batch = batch.pin_memory().to(extractor.device, non_blocking=True)
        with torch.autocast(extractor.device.type, enabled=False):
            parts += (Features(*found) for found in memory.parts(extractor, batch))
        progress.update(len(batch))
    return Features.joined(parts)
