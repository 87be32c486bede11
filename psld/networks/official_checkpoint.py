"""Read the published checkpoints (PyTorch Lightning) without unpickling anything unsafe."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from psld.utils.errors import UserError, reraise_fault
from psld.utils.tensors import check_archive

NETWORK_PREFIXES = ("score_fn.", "clf_fn.")
EMA_PREFIX = "ema_score_fn."


class OfficialCheckpoint(NamedTuple):
    """The weights in a checkpoint, by their official names (`all_modules.N…`)."""

    online: dict[str, Tensor]
    """The weights of the last training step."""
    ema: dict[str, Tensor] | None
    """Their moving average; None for a guide."""
    step: int | None
    """The number of training steps, if the file has it."""
    sha256: str
    """The SHA-256 of the file."""


def read_checkpoint(path: str | Path) -> OfficialCheckpoint:
    """Read a Lightning checkpoint of a score network or a guide of the official code.

    Raises UserError if the file is missing, damaged, or something else.
    """
    content, sha256 = _load(Path(path))
    state = content.get("state_dict") if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(w, Tensor) for w in state.values()):
        raise UserError(f"{path}: not a Lightning checkpoint: it has no state_dict of tensors")
    score, guide, ema = (
        {name.removeprefix(p): weight for name, weight in state.items() if name.startswith(p)}
        for p in (*NETWORK_PREFIXES, EMA_PREFIX)
    )
    if not score and not guide:
        raise UserError(
            f"{path}: not a checkpoint of the official code: "
            f"no parameter in state_dict begins with {' or '.join(NETWORK_PREFIXES)}"
        )
    step = content.get("global_step")
    step = step if isinstance(step, int) else None
    return OfficialCheckpoint(score or guide, ema or None, step, sha256)


class _Unread:
    """An inert replacement for the classes of other packages in a checkpoint."""

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _load(path: Path) -> tuple[Any, str]:
    """Load tensors and plain containers only, whatever else the file holds; and its SHA-256.

    Lightning may store objects of other packages next to the weights (a configuration, a path).
    Their classes are not imported: each is replaced by `_Unread`. torch cannot replace subclasses
    of dict; a file with such an object is refused, and the object is named.
    """
    foreign: list[str] = []
    try:
        with path.open("rb") as stream:  # Once: the file may be replaced at any moment.
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            check_archive(stream)
            foreign = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(stream))
            stream.seek(0)
            with torch.serialization.safe_globals([(_Unread, name) for name in foreign]):
                return torch.load(stream, map_location="cpu", weights_only=True), sha256
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:  # A damaged file can raise any exception.
        reraise_fault(error)
        objects = f", or holds objects that cannot be left out ({', '.join(foreign)})"
        raise UserError(
            f"{path}: not a readable checkpoint: it is damaged, or not of the official code"
            f"{objects if foreign else ''}"
        ) from None
