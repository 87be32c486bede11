"""Feature extraction: extractors on a device, applied to batches of images."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from psld.metrics.blocks import Blocks
from psld.metrics.features import BlockMoments, Device, Features, digest_of_weights
from psld.metrics.settings import Extractor
from psld.utils.batching import Batching
from psld.utils.device import all_bits, float32_by_default
from psld.utils.progress import Progress

KEY = "metric.extractor"

WAITING = 10_000
"""The number of images whose features are moved from the device and added to the moments at once.

A larger number needs more memory. A smaller number is slower: a GPU is synchronized more often, and
the sum Σxxᵀ over a few images takes as long as the sum over a hundred images."""


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
        """Map images N×C×H×W on any device → float32 features N×d and logits N×classes.

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


def batches_of(images: Any, batch_size: int) -> Iterator[Tensor]:
    """Yield batches of an array or memory map, N×C×H×W, reading each batch when needed."""
    for start in range(0, len(images), batch_size):
        yield torch.from_numpy(np.array(images[start : start + batch_size]))


class Collector:
    """The features of images 0, 1, …, or only the moments of the features."""

    def __init__(self, moments: Sequence[BlockMoments] = (), keep: int = 0) -> None:
        """
        Args:
            moments: the moments to which features are added. If empty, the features are stored.
            keep: store the features in any case if there are at most this many per image.
        """
        self._moments, self._keep = moments, keep
        self._kept: list[Features] = []
        self._waiting: list[Features] = []

    def add(self, features: Features) -> None:
        """Add the features of the next images, on any device."""
        self._waiting.append(features)
        if sum(map(len, self._waiting)) >= WAITING:
            self._process()

    def finish(self) -> Features | None:
        """Return the features, on the CPU; None if they were added to the moments."""
        if self._waiting:
            self._process()
        return Features.joined(self._kept) if self._kept else None

    def _process(self) -> None:
        features, self._waiting = Features.joined(self._waiting), []
        if not self._moments or features.values.shape[1] <= self._keep:
            self._kept.append(features)
            return
        for each in self._moments:
            each.add(features.values)


def gather(
    extractor: FeatureExtractor,
    batches: Iterable[Tensor],
    description: str,
    total: int,
    silent: bool = False,
) -> Features:
    """Return the features, and logits if any, of `total` images, and show the progress."""
    collector = Collector()
    with closing(Progress(description, "image", total, silent=silent)) as progress:
        extract(extractor, batches, progress, collector)
        return cast(Features, collector.finish())


def gather_moments(
    extractor: FeatureExtractor,
    batches: Iterable[Tensor],
    description: str,
    blocks: Blocks,
    numbers: Tensor | None = None,
    silent: bool = False,
) -> BlockMoments:
    """Return the block moments of the features of images, using bounded memory."""
    moments = BlockMoments(blocks, numbers)
    collector = Collector([moments])
    with closing(Progress(description, "image", len(moments), silent=silent)) as progress:
        extract(extractor, batches, progress, collector)
        collector.finish()
    return moments


@all_bits()
def extract(
    extractor: FeatureExtractor,
    batches: Iterable[Tensor],
    progress: Progress,
    collector: Collector,
) -> None:
    """Add the features, and logits if any, of images to `collector`, and update `progress`.

    A GPU is synchronized only every `WAITING` images, so the next batch is read while the GPU
    computes. If memory runs out, batches are halved.
    """
    memory = Batching()
    for batch in batches:
        if extractor.device.type == "cuda":
            batch = batch.pin_memory().to(extractor.device, non_blocking=True)
        with torch.autocast(extractor.device.type, enabled=False):
            for found in memory.parts(extractor, batch):
                collector.add(Features(*found))
        progress.update(len(batch))
