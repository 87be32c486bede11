"""The interface of feature extractors, and the loop that runs one over many images."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from psld.metrics.features import Features
from psld.utils.errors import UserError
from psld.utils.tensors import as_arrays, digest_of_arrays


class Extractor(Protocol):
    """A map from images to features. Equal digests mean equal features, up to rounding."""

    digest: str
    """Digest of the architecture and its weights."""
    dimension: int
    """Number of features, d."""
    device: torch.device
    """The device on which the features are computed and returned."""

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map uint8 images N×C×H×W on any device → float32 features N×d and logits N×classes.

        Both are on `device`. The logits are None if the network is not a classifier.
        """
        ...


def batches_of(images: np.ndarray, batch_size: int) -> Iterator[Tensor]:
    """Cut a uint8 array or memory map N×C×H×W into batches, each read when needed."""
    for start in range(0, len(images), batch_size):
        yield torch.from_numpy(np.array(images[start : start + batch_size]))


def gather(
    extractor: Extractor, batches: Iterable[Tensor], description: str, total: int
) -> Features:
    """Gather the features, and logits if any, of uint8 images, with a progress bar up to `total`.

    A GPU is waited for at the end only: the next batch is read while this one is computed.
    """
    parts = []
    with tqdm(total=total, desc=description, unit="img", disable=None) as progress:
        for batch in batches:
            if extractor.device.type == "cuda":
                batch = batch.pin_memory().to(extractor.device, non_blocking=True)
            parts.append(Features(*extractor(batch)))
            progress.update(len(batch))
    return Features.joined(parts)


def rgb(images: Tensor, network: str) -> Tensor:
    """Return images as N×3×H×W, gray ones repeated. Raises UserError unless uint8 N×{1,3}×H×W."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise UserError(
            f"{network} takes uint8 images N×3×H×W or N×1×H×W, "
            f"not {images.dtype} {tuple(images.shape)}"
        )
    return images.expand(-1, 3, -1, -1)


def digest_of_weights(architecture: str, weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of an architecture's description and its weights' names and values."""
    return digest_of_arrays("weights", as_arrays(weights), {"architecture": architecture})
