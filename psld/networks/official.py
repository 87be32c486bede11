"""The official networks (mandt-lab/PSLD): their options and their parameter names, as ours.

The official NCSN++ keeps all its layers in one list, `all_modules`, in the order in which it makes
them; a parameter is called `all_modules.N.NAME`. The mapping walks our modules in that order, so
that N is a count and not a table. Layers without parameters count too. The names inside a layer:

    our module           official name                                    layout
    time.embedding       W (Fourier features only)                        same
    Linear, Conv2d,
    GroupNorm            weight, bias                                     same
    ResidualBlock        GroupNorm_0, Conv_0, Dense_0, GroupNorm_1,
                         Conv_1; shortcut: Conv_2 (biggan)                same
                         shortcut: NIN_0 (ddpm), W and b                  in×out → out×in×1×1
    Attention            GroupNorm_0; NIN_0 … NIN_3, W and b              in×out → out×in
    resampling layer     Conv_0 (plain), Conv2d_0 (fir)                   same
                         Conv2d_0 of a FIR upsampling                     flipped, out×in → in×out
    Combine              Conv                                             same
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from psld.utils.errors import UserError
from psld.networks.blocks import Attention, ResidualBlock
from psld.networks.guide import NCSNppGuide
from psld.networks.embeddings import FourierEmbedding
from psld.networks.encoder import Encoder
from psld.networks.layers import Combine
from psld.networks.ncsnpp import NCSNpp
from psld.networks.resampling import FIRUpsamplingConv
from psld.networks.settings import GuideSettings, EncoderSettings, NetworkSettings
from psld.config.settings import parse

SPEC_KEYS = {
    "nf": "base_channels",
    "ch_mult": "channel_multipliers",
    "num_res_blocks": "blocks_per_level",
    "attn_resolutions": "attention_resolutions",
    "dropout": "dropout",
    "resblock_type": "block",
    "embedding_type": "embedding",
    "fourier_scale": "fourier_scale",
    "fir_kernel": "fir_kernel",
    "resamp_with_conv": "resample_with_conv",
    "skip_rescale": "skip_rescale",
    "progressive_input": "progressive_input",
    "progressive_combine": "progressive_combine",
    "init_scale": "init_scale",
}
"""The official options that ours only rename."""

SHAPE_KEYS = {"in_ch", "out_ch", "n_cls"}
"""Official options that are arguments of our networks, not settings."""

LISTED = 8
"""How many parameters a complaint lists at most."""

FIXED = {"nonlinearity": "swish", "noise_cond": True}
"""Official options of which every official configuration has this one value."""


def settings_from_spec(spec: Mapping[str, Any]) -> NetworkSettings | GuideSettings:
    """Our settings for the official options of a score network or a guide (`name`).

    Raises UserError for an option that is missing, unknown, or has a value that we do not support.
    """
    where = "official network options"
    known = SPEC_KEYS.keys() | SHAPE_KEYS | FIXED.keys() | {"name", "fir", "progressive"}
    if unknown := sorted(spec.keys() - known):
        raise UserError(f"{where}: unknown {', '.join(unknown)}")
    for key, value in FIXED.items():
        if spec.get(key, value) != value:
            raise UserError(f"{where}: {key} must be {value!r}, not {spec[key]!r}")
    content = {ours: spec[official] for official, ours in SPEC_KEYS.items() if official in spec}
    content["resampling"] = "fir" if spec.get("fir") else "plain"
    match spec.get("name"):
        case "ncsnpp":
            content["progressive_output"] = spec.get("progressive", "none")
            return parse(NetworkSettings, content, where)
        case "ncsnpp_clf":
            return parse(GuideSettings, content, where)
        case name:
            raise UserError(f"{where}: name must be ncsnpp or ncsnpp_clf, not {name!r}")


def from_official(state: Mapping[str, Tensor], network: Encoder) -> dict[str, Tensor]:
    """The official `state` (names `all_modules.N…`) as a state dict of `network`.

    Every parameter must be there with the right shape, and nothing else: otherwise UserError, which
    lists what is missing, unexpected, or of the wrong shape.
    """
    sources = official_sources(network)
    ours = network.state_dict()
    complaints = [
        *_listed(
            "missing", [source.name for source in sources.values() if source.name not in state]
        ),
        *_listed("unexpected", state.keys() - {source.name for source in sources.values()}),
        *_listed("not in official networks", ours.keys() - sources.keys()),
        *_listed("wrong shape", _wrong_shapes(state, sources, ours)),
    ]
    if complaints:
        raise UserError(f"official parameters do not fit the network: {'; '.join(complaints)}")
    return {
        name: source.layout.to_ours(state[source.name]).contiguous()
        for name, source in sources.items()
    }


@dataclass(frozen=True)
class Layout:
    """How an official tensor lies in memory against ours, both ways."""

    to_ours: Callable[[Tensor], Tensor]
    to_official: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Source:
    """Where a parameter of ours comes from: the official name, and the official layout."""

    name: str
    layout: Layout


SAME = Layout(lambda w: w, lambda w: w)
LINEAR = Layout(lambda w: w.mT, lambda w: w.mT)
POINTWISE = Layout(lambda w: w.mT[:, :, None, None], lambda w: w[:, :, 0, 0].mT)
UPSAMPLING = Layout(lambda w: w.transpose(0, 1).flip(2, 3), lambda w: w.transpose(0, 1).flip(2, 3))


def official_sources(network: Encoder) -> dict[str, Source]:
    """For each name in our state dict the official parameter that it comes from."""
    prefixes = {module: prefix for prefix, module in network.named_modules()}
    return {
        f"{prefixes[module]}.{ours}": Source(f"all_modules.{i}.{official}", layout)
        for i, module in enumerate(_in_official_order(network))
        for official, ours, layout in _parameters(module, network.settings)
    }


def _in_official_order(network: Encoder) -> Iterator[nn.Module]:
    """Our counterpart of each layer of the official list, in its order."""
    if isinstance(network.time.embedding, FourierEmbedding):
        yield network.time.embedding
    yield from (network.time.linear1, network.time.linear2, network.stem)
    for level in network.down:
        for block, attention in zip(level.blocks, level.attentions, strict=True):
            yield block
            yield from _if_attention(attention)
        if level.resample is not None:
            yield level.resample
        if level.pyramid is not None:
            # Of an input_skip, the official list holds the joint only.
            yield level.combine or level.pyramid
    yield from (network.middle.block1, network.middle.attention, network.middle.block2)
    if isinstance(network, NCSNppGuide):
        yield network.head
    if isinstance(network, NCSNpp):
        yield from _way_up(network)


def _way_up(network: NCSNpp) -> Iterator[nn.Module]:
    for level in network.up:
        yield from level.blocks
        yield from _if_attention(level.attention)
        if level.output is not None:
            yield from (level.output.norm, level.output.conv)
        elif level.pyramid is not None:
            yield level.pyramid
        if level.resample is not None:
            yield level.resample
    if network.output is not None:
        yield from (network.output.norm, network.output.conv)


def _if_attention(module: nn.Module) -> Iterator[nn.Module]:
    if isinstance(module, Attention):
        yield module


def _parameters(module: nn.Module, settings: EncoderSettings) -> Iterator[tuple[str, str, Layout]]:
    """The parameters of one official layer: official name, our name, layout."""
    resampling_conv = "Conv2d_0" if settings.resampling == "fir" else "Conv_0"
    match module:
        case FourierEmbedding():
            yield "W", "frequencies", SAME
        case nn.Linear() | nn.Conv2d() | nn.GroupNorm():
            yield "weight", "weight", SAME
            if module.bias is not None:
                yield "bias", "bias", SAME
        case ResidualBlock():
            yield from _layer("GroupNorm_0", "norm1")
            yield from _layer("Conv_0", "conv1")
            yield from _layer("Dense_0", "time")
            yield from _layer("GroupNorm_1", "norm2")
            yield from _layer("Conv_1", "conv2")
            if not isinstance(module.shortcut, nn.Identity):
                biggan = settings.block == "biggan"
                yield from (
                    _layer("Conv_2", "shortcut") if biggan else _nin("NIN_0", "shortcut", POINTWISE)
                )
        case Attention():
            yield from _layer("GroupNorm_0", "norm")
            for i, ours in enumerate(("query", "key", "value", "out")):
                yield from _nin(f"NIN_{i}", ours, LINEAR)
        case Combine():
            yield from _layer("Conv", "conv")
        case FIRUpsamplingConv():
            yield f"{resampling_conv}.weight", "conv.weight", UPSAMPLING
            yield f"{resampling_conv}.bias", "bias", SAME
        case nn.Sequential():
            yield from _layer(resampling_conv, "conv")


def _layer(official: str, ours: str) -> Iterator[tuple[str, str, Layout]]:
    yield f"{official}.weight", f"{ours}.weight", SAME
    yield f"{official}.bias", f"{ours}.bias", SAME


def _nin(official: str, ours: str, layout: Layout) -> Iterator[tuple[str, str, Layout]]:
    yield f"{official}.W", f"{ours}.weight", layout
    yield f"{official}.b", f"{ours}.bias", SAME


def _wrong_shapes(
    state: Mapping[str, Tensor], sources: Mapping[str, Source], ours: Mapping[str, Tensor]
) -> Iterator[str]:
    for name, source in sources.items():
        expected = tuple(source.layout.to_official(ours[name]).shape)
        if source.name in state and (found := tuple(state[source.name].shape)) != expected:
            yield f"{source.name} is {found}, should be {expected}"


def _listed(what: str, items: Iterable[str]) -> list[str]:
    """One complaint about all of `items`, shortened when there are many; none about none."""
    items = sorted(items)
    if not items:
        return []
    more = f" and {len(items) - LISTED} more" if len(items) > LISTED else ""
    return [f"{what}: {', '.join(items[:LISTED])}{more}"]
