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
    """A map from images to features. Equal digests mean equal features, up to rounding."""

    digest: str
    """Digest of the architecture and its weights."""
    dimension: int
    """Number of features, d."""
    device: torch.device
    """The device on which the features are computed and returned."""

    def __call__(self, images: Tensor) -> Tensor:
        """Map uint8 images N×C×H×W on any device → float32 features N×d on `device`."""
        ...

    def features_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return features and logits, N×classes; the logits are None without a classifier."""
        ...


def batches_of(images: np.ndarray, batch_size: int) -> Iterator[Tensor]:
    """Cut a uint8 array or memory map N×C×H×W into batches, each read when needed."""
    for start in range(0, len(images), batch_size):
        yield torch.from_numpy(np.array(images[start : start + batch_size]))


def features_of(
    extractor: Extractor, batches: Iterable[Tensor], description: str, total: int
) -> Iterator[Tensor]:
    """Yield the features of each batch, with a progress bar up to `total` images."""
    for batch in _on_device(extractor.device, batches, description, total):
        yield extractor(batch)


def _on_device(
    device: torch.device, batches: Iterable[Tensor], description: str, total: int
) -> Iterator[Tensor]:
    """Yield the batches on the device, with a progress bar.

    Copies to a GPU start from pinned memory and do not block: the next batch is read while this one
    is computed.
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
    """Gather the features, and logits if any, of all batches of uint8 images."""
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
    """Gather the feature statistics of all batches of uint8 images."""
    statistics = FeatureStatistics(extractor.dimension, extractor.device)
    for features in features_of(extractor, batches, description, total):
        statistics.update(features)
    return statistics


def block_statistics_of(
    extractor: Extractor, batches: Iterable[Tensor], description: str, total: int, first: int = 0
) -> BlockStatistics:
    """Gather the block statistics of uint8 images, which are samples first, first + 1, … of a cell.

    No features are kept, so this is enough only for a Fréchet distance.
    """
    statistics = BlockStatistics(extractor.dimension, device=extractor.device)
    for features in features_of(extractor, batches, description, total):
        statistics.update(features, first)
        first += len(features)
    return statistics


def rgb(images: Tensor, network: str) -> Tensor:
    """Return uint8 images as N×3×H×W; gray ones, N×1×H×W, are repeated. Else raise UserError."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise UserError(
            f"{network} takes uint8 images N×3×H×W or N×1×H×W, "
            f"not {images.dtype} {tuple(images.shape)}"
        )
    return images.expand(-1, 3, -1, -1)


def digest_of_weights(architecture: str, weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of an architecture's description and its weights' names and values."""
    digest = hashlib.sha256(architecture.encode())
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        digest.update(f"\0{name} {value.dtype} {tuple(value.shape)}\0".encode())
        digest.update(value.view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
