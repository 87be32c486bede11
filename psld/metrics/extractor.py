"""The interface of feature extractors, and the loop that runs one over many images."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from psld.metrics.blocks import BlockStatistics
from psld.metrics.features import Features
from psld.metrics.statistics import FeatureStatistics
from psld.utils.errors import UserError


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

    def features_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Both in one pass; the logits, N×classes, are None if the extractor is no classifier."""
        ...


def batches_of(images: np.ndarray, batch_size: int) -> Iterator[Tensor]:
    """Cut a uint8 array N×C×H×W, also a memory map, into batches, each read in its turn."""
    for start in range(0, len(images), batch_size):
        yield torch.from_numpy(np.array(images[start : start + batch_size]))


def features_of(
    extractor: Extractor, batches: Iterable[Tensor], description: str, total: int
) -> Iterator[Tensor]:
    """The features of each batch, with a progress bar that counts up to `total` images."""
    for batch in _on_device(extractor.device, batches, description, total):
        yield extractor(batch)


def _on_device(
    device: torch.device, batches: Iterable[Tensor], description: str, total: int
) -> Iterator[Tensor]:
    """The batches, with a progress bar.

    To a GPU they travel from pinned memory and nothing waits for them: the next batch is read
    while this one is computed.
    """
    with tqdm(total=total, desc=description, unit="img", disable=None) as progress:
        for batch in batches:
            if device.type == "cuda":
                batch = batch.pin_memory().to(device, non_blocking=True)
            yield batch
            progress.update(len(batch))


def gather(
    extractor: Extractor, batches: Iterable[Tensor], description: str, total: int
) -> Features:
    """The features, and logits if there are any, of all batches of uint8 images."""
    features, logits = [], []
    for batch in _on_device(extractor.device, batches, description, total):
        x, y = extractor.features_and_logits(batch)
        features.append(x.cpu())
        if y is not None:
            logits.append(y.cpu())
    return Features(torch.cat(features), torch.cat(logits) if logits else None)


def statistics_of(
    extractor: Extractor, batches: Iterable[Tensor], description: str, total: int
) -> FeatureStatistics:
    """The feature statistics of all batches of uint8 images."""
    statistics = FeatureStatistics(extractor.dimension, extractor.device)
    for features in features_of(extractor, batches, description, total):
        statistics.update(features)
    return statistics


def block_statistics_of(
    extractor: Extractor, batches: Iterable[Tensor], description: str, total: int, first: int = 0
) -> BlockStatistics:
    """The statistics per block of uint8 images that are samples first, first + 1, … of a cell.

    For a distance alone: no features are kept.
    """
    statistics = BlockStatistics(extractor.dimension, device=extractor.device)
    for features in features_of(extractor, batches, description, total):
        statistics.update(features, first)
        first += len(features)
    return statistics


def rgb(images: Tensor, network: str) -> Tensor:
    """uint8 images N×3×H×W; grey ones, N×1×H×W, are repeated. Raises UserError for others."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise UserError(
            f"{network} takes uint8 images N×3×H×W or N×1×H×W, "
            f"not {images.dtype} {tuple(images.shape)}"
        )
    return images.expand(-1, 3, -1, -1)


def digest_of_weights(architecture: str, weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of the description of an architecture and of its weights' names and values."""
    digest = hashlib.sha256(architecture.encode())
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        digest.update(f"\0{name} {value.dtype} {tuple(value.shape)}\0".encode())
        digest.update(value.view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
