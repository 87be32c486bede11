"""The parameter names of the official networks (mandt-lab/PSLD), mapped to ours.

The official NCSN++ keeps all layers in one list, `all_modules`, in the order of creation; a
parameter is named `all_modules.N.NAME`. The mapping visits our modules in that order and counts N.
Layers without parameters count too.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from torch import Tensor, nn

from psld.networks.blocks import Attention, FourierEmbedding, ResidualBlock
from psld.networks.encoder import Encoder
from psld.networks.guide import NCSNppGuide
from psld.networks.layers import Combine
from psld.networks.ncsnpp import NCSNpp
from psld.networks.resampling import FIRUpsamplingConv
from psld.networks.settings import EncoderSettings
from psld.utils.errors import UserError

LISTED = 8
"""The maximum number of parameters that an error message lists."""


def from_official(state: Mapping[str, Tensor], network: Encoder) -> dict[str, Tensor]:
    """Return the official `state` (names `all_modules.N…`) as a state dict of `network`.

    Raises UserError that lists the parameters that are missing, unexpected, or of a wrong shape.
    """
    sources = official_sources(network)
    ours = network.state_dict()
    official_names = {source.name for source in sources.values()}
    problems = {
        "missing": official_names - state.keys(),
        "unexpected": state.keys() - official_names,
        "not in official networks": ours.keys() - sources.keys(),
        "wrong shape": list(_wrong_shapes(state, sources, ours)),
    }
    complaints = [f"{problem}: {_listed(items)}" for problem, items in problems.items() if items]
    if complaints:
        raise UserError(f"official parameters do not fit the network: {'; '.join(complaints)}")
    return {
        name: source.swapped(state[source.name]).reshape(ours[name].shape).contiguous()
        for name, source in sources.items()
    }


class Source(NamedTuple):
    """The official name of one of our parameters, and the conversion between the two layouts.

    Each conversion is its own inverse, except that ours may have two more dimensions of size 1.
    """

    name: str
    swapped: Callable[[Tensor], Tensor]


Parameter = tuple[str, str, Callable[[Tensor], Tensor]]
"""Official name and our name within a layer, and the conversion."""


def _same(weight: Tensor) -> Tensor:
    return weight


def _linear(weight: Tensor) -> Tensor:
    """in×out ↔ out×in, or out×in×1×1."""
    return weight.flatten(1).mT


def _upsampling(weight: Tensor) -> Tensor:
    """out×in×3×3 ↔ in×out×3×3, flipped."""
    return weight.transpose(0, 1).flip(2, 3)


def official_sources(network: Encoder) -> dict[str, Source]:
    """Return the official parameter for each name in our state dict."""
    prefixes = {module: prefix for prefix, module in network.named_modules()}
    layers = [
        layer
        for layer in _in_official_order(network)
        if layer is not None and not isinstance(layer, nn.Identity)
    ]
    return {
        f"{prefixes[layer]}.{ours}": Source(f"all_modules.{i}.{official}", swapped)
        for i, layer in enumerate(layers)
        for official, ours, swapped in _parameters(layer, network.settings)
    }


def _in_official_order(network: Encoder) -> Iterator[nn.Module | None]:
    """Yield our counterpart of each layer of the official list; None and Identity do not count."""
    time, middle = network.time, network.middle
    if isinstance(time.embedding, FourierEmbedding):
        yield time.embedding
    yield from (time.linear1, time.linear2, network.stem)
    for level in network.down:
        for block, attention in zip(level.blocks, level.attentions, strict=True):
            yield from (block, attention)
        # For input_skip the official list holds the Combine only.
        yield from (level.resample, level.combine or level.pyramid)
    yield from (middle.block1, middle.attention, middle.block2)
    if isinstance(network, NCSNppGuide):
        yield network.head
    if isinstance(network, NCSNpp):
        for level in network.up:
            yield from (*level.blocks, level.attention)
            output = level.output
            yield from (level.pyramid,) if output is None else (output.norm, output.conv)
            yield level.resample
        if network.output is not None:
            yield from (network.output.norm, network.output.conv)


def _parameters(module: nn.Module, settings: EncoderSettings) -> Iterator[Parameter]:
    resampling_conv = "Conv2d_0" if settings.resampling == "fir" else "Conv_0"
    match module:
        case FourierEmbedding():
            yield "W", "frequencies", _same
        case nn.Linear() | nn.Conv2d() | nn.GroupNorm():
            yield "weight", "weight", _same
            if module.bias is not None:
                yield "bias", "bias", _same
        case ResidualBlock():
            yield from _layer("GroupNorm_0", "norm1")
            yield from _layer("Conv_0", "conv1")
            yield from _layer("Dense_0", "time")
            yield from _layer("GroupNorm_1", "norm2")
            yield from _layer("Conv_1", "conv2")
            if not isinstance(module.shortcut, nn.Identity):
                biggan = _layer("Conv_2", "shortcut")
                ddpm = _nin("NIN_0", "shortcut")
                yield from biggan if settings.block == "biggan" else ddpm
        case Attention():
            yield from _layer("GroupNorm_0", "norm")
            for i, ours in enumerate(("query", "key", "value", "out")):
                yield from _nin(f"NIN_{i}", ours)
        case Combine():
            yield from _layer("Conv_0", "conv")
        case FIRUpsamplingConv():
            yield f"{resampling_conv}.weight", "conv.weight", _upsampling
            yield f"{resampling_conv}.bias", "bias", _same
        case nn.Sequential():
            yield from _layer(resampling_conv, "conv")


def _layer(official: str, ours: str) -> Iterator[Parameter]:
    yield f"{official}.weight", f"{ours}.weight", _same
    yield f"{official}.bias", f"{ours}.bias", _same


def _nin(official: str, ours: str) -> Iterator[Parameter]:
    yield f"{official}.W", f"{ours}.weight", _linear
    yield f"{official}.b", f"{ours}.bias", _same


def _wrong_shapes(
    state: Mapping[str, Tensor], sources: Mapping[str, Source], ours: Mapping[str, Tensor]
) -> Iterator[str]:
    for name, source in sources.items():
        expected = tuple(source.swapped(ours[name]).shape)
        if source.name in state and (found := tuple(state[source.name].shape)) != expected:
            yield f"{source.name} is {found}, should be {expected}"


def _listed(items: Iterable[str]) -> str:
    items = sorted(items)
    more = f" and {len(items) - LISTED} more" if len(items) > LISTED else ""
    return f"{', '.join(items[:LISTED])}{more}"
