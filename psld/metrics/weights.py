"""Published weights, from a path or a download, read without running code."""

import re
from pathlib import Path

import torch
from torch import Tensor
from torch.hub import load_state_dict_from_url

from psld.utils.errors import UserError


def load_weights(network: str, weights: str | Path | None, url: str) -> dict[str, Tensor]:
    """Load the tensors from the file `weights`, or if it is None, download and keep that at `url`.

    A download is checked if its name ends in a part of its SHA-256, as in NAME-0123abcd.pth.
    Raises UserError that names the file to get and the place to put it.
    """
    try:
        if weights is None:
            names_its_hash = re.search(r"-[0-9a-f]{8,}\.\w+$", url) is not None
            state = load_state_dict_from_url(
                url, map_location="cpu", check_hash=names_its_hash, weights_only=True
            )
        else:
            state = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise any error
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise unusable_weights(network, weights, url, reason) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise unusable_weights(network, weights, url, "not a state dict")
    return state


def unusable_weights(network: str, weights: str | Path | None, url: str, reason: str) -> UserError:
    """Build the error that names the file to get and the place to put it."""
    place = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    return UserError(
        f"metric.extractor.weights: no {network} weights from {weights or url} ({reason}); "
        f"get {url} and put it at {place} with weights null, "
        "or anywhere and set weights to its path"
    )
