"""The interface of feature extractors, the loop that runs one over many images, and weights.

Published weights come from a path or a download, and are read without running code.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.hub import load_state_dict_from_url
from tqdm.auto import tqdm

from psld.metrics.features import Features
from psld.utils.errors import UserError
from psld.utils.tensors import as_arrays, digest_of_arrays


class Extractor(Protocol):
    """A map from images to features. Equal digests mean equal features, up to rounding."""

    digest: str
    """Digest of the architecture and its weights."""
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


def load_network(
    name: str,
    weights: str | Path | None,
    url: str,
    build: Callable[[dict[str, Tensor]], nn.Module],
) -> tuple[nn.Module, dict[str, Tensor]]:
    """Build a network with weights from the file `weights`, or if it is None, from a download.

    torch keeps the download, and checks it if its name ends in a part of its SHA-256. Weights are
    read without running code. Return the network and its weights.

    Raises UserError that names the file to get and the place to put it, if there is no such file,
    or if it is damaged or has the weights of another network.
    """
    try:
        if weights is None:
            state = load_state_dict_from_url(url, None, "cpu", check_hash=True, weights_only=True)
        else:
            state = torch.load(weights, map_location="cpu", weights_only=True)
        return build(state), state
    except Exception as error:  # a damaged file can raise any error
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        place = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
        raise UserError(
            f"metric.extractor.weights: no {name} weights from {weights or url} ({reason}); "
            f"get {url} and put it at {place} with weights null, "
            "or anywhere and set weights to its path"
        ) from error
