"""Reading the published checkpoints (PyTorch Lightning) without unpickling anything unsafe."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from psld.utils.errors import UserError

NETWORK_PREFIXES = ("score_fn.", "clf_fn.")
EMA_PREFIX = "ema_score_fn."


class OfficialCheckpoint(NamedTuple):
    """The weights in a checkpoint, by their official names (`all_modules.N…`)."""

    online: dict[str, Tensor]
    """Of the network as it was trained."""

    ema: dict[str, Tensor] | None
    """Their moving average; a guide has none."""

    step: int | None
    """The number of training steps, where the file says it."""


def read_checkpoint(path: str | Path) -> OfficialCheckpoint:
    """Read a Lightning checkpoint of a score network or a guide of the official code.

    Raises UserError when the file is missing, damaged, or something else.
    """
    content = _load(Path(path))
    state = content.get("state_dict") if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(w, Tensor) for w in state.values()):
        raise UserError(f"{path}: not a Lightning checkpoint: it has no state_dict of tensors")
    networks = [_below(prefix, state) for prefix in NETWORK_PREFIXES]
    online = next((weights for weights in networks if weights), None)
    if online is None:
        raise UserError(
            f"{path}: not a checkpoint of the official code: "
            f"no parameter in state_dict begins with {' or '.join(NETWORK_PREFIXES)}"
        )
    step = content.get("global_step")
    return OfficialCheckpoint(
        online=online,
        ema=_below(EMA_PREFIX, state) or None,
        step=step if isinstance(step, int) else None,
    )


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): weight
        for name, weight in state.items()
        if name.startswith(prefix)
    }


class _Unread:
    """Stands in for any class of another package in a checkpoint; keeps and does nothing."""

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _load(path: Path) -> Any:
    """torch.load of nothing but tensors and plain containers, whatever else the file holds.

    Lightning may store objects of other packages beside the weights (a configuration, a path).
    Their classes are never looked up: each is replaced by a stand-in. For kinds of dictionaries
    torch lets nothing stand in; a file with such an object is refused, and the object is named.
    """
    foreign: list[str] = []
    try:
        foreign = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        with torch.serialization.safe_globals([(_Unread, name) for name in foreign]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception:  # A garbled file can make the reader fail in any way.
        held = f", or holds more beside the weights than can be left out ({', '.join(foreign)})"
        raise UserError(
            f"{path}: not a readable checkpoint: it is damaged, or not of the official code"
            f"{held if foreign else ''}"
        ) from None
