"""The official networks (mandt-lab/PSLD): the mapping to our parameter names, and checkpoints.

The official NCSN++ keeps all layers in one list, `all_modules`, in the order of creation. The name
of a parameter is `all_modules.N.NAME`, where N is the position of its layer. The mapping visits our
modules in the same order to determine N. Layers without parameters count, too.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast
from zipfile import is_zipfile

import torch
from torch import Tensor, nn

from psld.networks import ncsnpp
from psld.networks.options import EncoderOptions
from psld.utils.errors import UserError, listed, reraise_fault
from psld.utils.tensors import check_archive

LISTED = 8
"""The maximum number of parameters that an error message lists."""


def from_official(state: Mapping[str, Tensor], network: ncsnpp.Encoder) -> dict[str, Tensor]:
    """Return the official `state` (names `all_modules.N…`) as a state dict of `network`.

    Raises UserError if parameters are missing, unexpected, of a wrong shape or not finite; the
    message lists these parameters.
    """
    officials, shapes = official_parameters(network), official_shapes(network)
    ours = network.state_dict()
    problems = {
        "missing": shapes.keys() - state.keys(),
        "unexpected": state.keys() - shapes.keys(),
        "not in official networks": ours.keys() - officials.keys(),
        "wrong shape": [
            f"{name} is {shape}, should be {expected}"
            for name, expected in shapes.items()
            if name in state and (shape := tuple(state[name].shape)) != expected
        ],
    }
    found = {problem: listed(sorted(items), LISTED) for problem, items in problems.items() if items}
    complaints = [f"{problem}: {items}" for problem, items in found.items()]
    if complaints:
        raise UserError(f"official parameters do not fit the network: {'; '.join(complaints)}")
    if broken := [name for name, weight in state.items() if not weight.float().isfinite().all()]:
        raise UserError(f"NaN or infinity in {listed(sorted(broken), LISTED)} (as float32)")
    return {
        name: official.swapped(state[official.name]).reshape(ours[name].shape).contiguous()
        for name, official in officials.items()
    }


def official_shapes(network: ncsnpp.Encoder) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all official parameters. `network` may be on the device `meta`."""
    officials, ours = official_parameters(network), network.state_dict()
    return {each.name: tuple(each.swapped(ours[key]).shape) for key, each in officials.items()}


Swap = Callable[[Tensor], Tensor]


class OfficialParameter(NamedTuple):
    """The official name of one of our parameters, and the conversion between the two layouts.

    Each conversion is its own inverse, except for two additional dimensions of size 1 that our
    tensor may have.
    """

    name: str
    swapped: Swap


def _same(weight: Tensor) -> Tensor:
    return weight


def _linear(weight: Tensor) -> Tensor:
    """in×out ↔ out×in, or out×in×1×1."""
    return weight.flatten(1).mT


def _upsampling(weight: Tensor) -> Tensor:
    """out×in×3×3 ↔ in×out×3×3, flipped."""
    return weight.transpose(0, 1).flip(2, 3)


PLAIN = {"weight": ("weight", _same), "bias": ("bias", _same)}
NIN = {"weight": ("W", _linear), "bias": ("b", _same)}
"""The official names of a layer's parameters, and their conversions. The keys are our names."""


def official_parameters(network: ncsnpp.Encoder) -> dict[str, OfficialParameter]:
    """Return the official parameter for each name in our state dict."""
    prefixes = {module: prefix for prefix, module in network.named_modules()}
    layers = [
        layer
        for layer in _in_official_order(network)
        if layer is not None and not isinstance(layer, nn.Identity)
    ]
    return {
        f"{prefixes[layer]}.{ours}": OfficialParameter(f"all_modules.{i}.{official}", swapped)
        for i, layer in enumerate(layers)
        for official, ours, swapped in _parameters(layer, network.settings)
    }


def _in_official_order(network: ncsnpp.Encoder) -> Iterator[nn.Module | None]:
    """Yield our module for each official layer.

    None and an Identity mean that the network has no such layer; the official list then has no
    entry either.
    """
    time, middle = network.time, network.middle
    if isinstance(time.embedding, ncsnpp.FourierEmbedding):
        yield time.embedding
    yield from (time.linear1, time.linear2, network.stem)
    for level in cast(list[Any], network.down):
        for block, attention in zip(level.blocks, level.attentions, strict=True):
            yield from (block, attention)
        # With input_skip, we have the modules `combine` and `pyramid`, but the official list has
        # only the counterpart of `combine`.
        yield from (level.resample, level.combine or level.pyramid)
    yield from (middle.block1, middle.attention, middle.block2)
    if isinstance(network, ncsnpp.NCSNppGuide):
        yield network.head
    if isinstance(network, ncsnpp.NCSNpp):
        for level in cast(list[Any], network.up):
            yield from (*level.blocks, level.attention)
            output = level.output
            yield from (level.pyramid,) if output is None else (output.norm, output.conv)
            yield level.resample
        if (output := cast(Any, network.output)) is not None:
            yield from (output.norm, output.conv)


def _parameters(layer: nn.Module, settings: EncoderOptions) -> Iterator[tuple[str, str, Swap]]:
    """Yield the official name, our name and the conversion of each parameter of a layer."""
    conv = "Conv2d_0" if settings.resampling == "fir" else "Conv_0"
    parts = {"": ""}  # our name → official name
    match layer:
        case ncsnpp.FourierEmbedding():
            yield "W", "frequencies", _same
        case ncsnpp.FIRUpsamplingConv():
            yield f"{conv}.weight", "conv.weight", _upsampling
            yield f"{conv}.bias", "bias", _same
            return
        case ncsnpp.ResidualBlock():
            parts = {"norm1": "GroupNorm_0", "conv1": "Conv_0", "time": "Dense_0"}
            parts |= {"norm2": "GroupNorm_1", "conv2": "Conv_1"}
            parts["shortcut"] = "Conv_2" if settings.block == "biggan" else "NIN_0"
        case ncsnpp.Attention():
            parts = {"norm": "GroupNorm_0"}
            parts |= {"query": "NIN_0", "key": "NIN_1", "value": "NIN_2", "out": "NIN_3"}
        case ncsnpp.Combine():
            parts = {"conv": "Conv_0"}
        case nn.Sequential():
            parts = {"conv": conv}
    for ours, official in parts.items():
        named = NIN if official.startswith("NIN") else PLAIN
        for name, _ in layer.get_submodule(ours).named_parameters():  # none in an Identity
            theirs, swapped = named[name]
            yield f"{official}.{theirs}".lstrip("."), f"{ours}.{name}".lstrip("."), swapped


# -- checkpoints --------------------------------------------------------------------------------

NETWORK_PREFIXES = ("score_fn.", "clf_fn.")
KEPT = ("state_dict", "global_step")
"""The keys of a checkpoint that are read."""


class OfficialCheckpoint(NamedTuple):
    """The weights in a checkpoint, by their official names (`all_modules.N…`)."""

    online: dict[str, Tensor]
    """The weights of the last training step."""
    ema: dict[str, Tensor] | None
    """The exponential moving average (EMA) of the weights; None for a guide."""
    step: int | None
    """The number of training steps; None if the file does not contain the number."""
    sha256: str
    """The SHA-256 of the file."""

    def weights(self, chosen: Literal["ema", "online"]) -> dict[str, Tensor]:
        """Return the chosen weights. Raises UserError if the file does not contain them."""
        weights = self.ema if chosen == "ema" else self.online
        if weights is None:
            raise UserError("contains no moving average of the weights; set weights=online")
        return weights


def read_checkpoint(path: str | Path) -> OfficialCheckpoint:
    """Read a Lightning checkpoint of a score network or a guide of the official code.

    Raises UserError if the file is missing, damaged, or not such a checkpoint.
    """
    content, sha256 = _load(Path(path))
    state, step = (content.get(k) if isinstance(content, Mapping) else None for k in KEPT)
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(weight, Tensor) for name, weight in state.items()
    ):
        raise UserError(f"{path}: not a Lightning checkpoint: it has no state_dict of tensors")
    score, guide, ema = (
        {name.removeprefix(p): weight for name, weight in state.items() if name.startswith(p)}
        for p in (*NETWORK_PREFIXES, "ema_score_fn.")
    )
    if not score and not guide:
        raise UserError(
            f"{path}: not a checkpoint of the official code: "
            f"no parameter in state_dict begins with {' or '.join(NETWORK_PREFIXES)}"
        )
    return OfficialCheckpoint(score or guide, ema or None, step, sha256)


class _Unread:
    """A placeholder for classes of other packages in a checkpoint. Its instances do nothing."""

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _load(path: Path) -> tuple[Any, str]:
    """Return the tensors and plain containers of a file, and the SHA-256 of the file.

    Lightning may store objects of other packages next to the weights, such as a configuration or a
    path. Their classes are not imported; `_Unread` replaces each of these classes. torch cannot
    replace subclasses of dict. If a file contains such an object, UserError names its class.
    """
    foreign: list[str] = []
    if not path.is_file():  # Opening a named pipe would block forever.
        kind = "a folder" if path.is_dir() else "not a regular file"
        raise UserError(f"{path}: {kind if path.exists() else 'no such file'}")
    try:
        with path.open("rb") as stream:  # Open it only once, because it may be replaced.
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            check_archive(stream)
            foreign = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(stream))
            stream.seek(0)
            with torch.serialization.safe_globals([(_Unread, name) for name in foreign]):
                return torch.load(stream, map_location="cpu", weights_only=True), sha256
    except Exception as error:  # A damaged file can raise any exception.
        reraise_fault(error, path)
        raise UserError(f"{path}: {_reason(path, foreign)}") from None


def _reason(path: Path, foreign: list[str]) -> str:
    """Return the reason why a file cannot be read.

    `foreign` contains the names of classes of other packages in the file.
    """
    with path.open("rb") as stream:
        start, is_archive = stream.read(64).lstrip().lower(), is_zipfile(stream)
    if not start:
        return "an empty file"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page, not a checkpoint: the link may have expired; download it again"
    if foreign and is_archive:  # The checksums of the archive are already verified.
        return (
            f"contains objects that cannot be skipped ({', '.join(foreign)}); if you trust the "
            "file, load it where their packages are installed, and save only "
            f"{' and '.join(KEPT)} with torch.save"
        )
    return "not a readable checkpoint: damaged, or not written by the official code"
