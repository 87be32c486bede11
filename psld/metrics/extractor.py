"""What every feature extractor offers, and the loop that runs one over many images."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from psld.metrics.statistics import FeatureStatistics


class Extractor(Protocol):
    """Turns images into features. Equal digests give equal features, up to rounding."""

    digest: str
    """Names the architecture and its weights."""
    dimension: int
    """Number of features, d."""
    device: torch.device
    """Where the features are computed and returned."""

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 images N×C×H×W on any device → float32 features N×d on `device`."""
        ...


def batches_of(images: np.ndarray, batch_size: int) -> Iterator[Tensor]:
    """Cut a uint8 array N×C×H×W, also a memory map, into batches, each read in its turn."""
    for start in range(0, len(images), batch_size):
        yield torch.from_numpy(np.array(images[start : start + batch_size]))


def features_of(
    extractor: Extractor, batches: Iterable[Tensor], description: str, total: int
) -> Iterator[Tensor]:
    """The features of each batch, with a progress bar that counts up to `total` images.

    On a GPU batches travel from pinned memory and nothing waits for them: the next batch is read
    while this one is computed.
    """
    on_gpu = extractor.device.type == "cuda"
    with tqdm(total=total, desc=description, unit="img", disable=None) as progress:
        for batch in batches:
            if on_gpu:
                batch = batch.pin_memory().to(extractor.device, non_blocking=True)
            yield extractor(batch)
            progress.update(len(batch))


def statistics_of(
    extractor: Extractor, batches: Iterable[Tensor], description: str, total: int
) -> FeatureStatistics:
    """The feature statistics of all batches of uint8 images."""
    statistics = FeatureStatistics(extractor.dimension, extractor.device)
    for features in features_of(extractor, batches, description, total):
        statistics.update(features)
    return statistics


def digest_of_weights(architecture: str, weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of the description of an architecture and of its weights' names and values."""
    digest = hashlib.sha256(architecture.encode())
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        digest.update(f"\0{name} {value.dtype} {tuple(value.shape)}\0".encode())
        digest.update(value.view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
