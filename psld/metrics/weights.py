"""Published weights, from a path or a download, read without running code."""

import hashlib
import re
from pathlib import Path

import torch
from torch import Tensor
from torch.hub import download_url_to_file

from psld.utils.errors import UserError
from psld.utils.tensors import check_archive


def load_weights(network: str, weights: str | Path | None, url: str) -> dict[str, Tensor]:
    """Load the tensors from the file `weights`, or if it is None, download and keep that at `url`.

    A download is checked, whenever it is read, if its name ends in a part of its SHA-256, as in
    NAME-0123abcd.pth. Raises UserError that names the file to get and the place to put it.
    """
    path, start = Path(weights or _place(url)), ""
    try:
        if weights is None:
            named = re.search(r"-([0-9a-f]{8,})\.\w+$", url)
            start = named[1] if named else ""
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                download_url_to_file(url, str(path), start)
        with path.open("rb") as stream:
            if not hashlib.file_digest(stream, "sha256").hexdigest().startswith(start):
                raise ValueError(f"{path} is damaged; delete it")
            check_archive(stream)
            state = torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise any error
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise unusable_weights(network, weights, url, reason) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise unusable_weights(network, weights, url, "not a state dict")
    return state


def unusable_weights(network: str, weights: str | Path | None, url: str, reason: str) -> UserError:
    """Build the error that names the file to get and the place to put it."""
    place = _place(url)
    return UserError(
        f"metric.extractor.weights: no {network} weights from {weights or url} ({reason}); "
        f"get {url} and put it at {place} with weights null, "
        "or anywhere and set weights to its path"
    )


def _place(url: str) -> Path:
    """The path where torch keeps a download."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
