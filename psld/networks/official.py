"""The official networks (mandt-lab/PSLD): their options and parameter names, mapped to ours.

The official NCSN++ keeps all layers in one list, `all_modules`, in the order of creation; a
parameter is named `all_modules.N.NAME`. The mapping visits our modules in that order and counts N.
Layers without parameters count too.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from psld.config.settings import parse
from psld.networks.blocks import Attention, FourierEmbedding, ResidualBlock
from psld.networks.encoder import Encoder
from psld.networks.guide import NCSNppGuide
from psld.networks.layers import Combine
from psld.networks.ncsnpp import NCSNpp
from psld.networks.resampling import FIRUpsamplingConv
from psld.networks.settings import EncoderSettings, GuideSettings, NetworkSettings
from psld.utils.errors import UserError

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
"""Official options that have the same values as ours, and our names for them."""

SHAPE_KEYS = {"in_ch", "out_ch", "n_cls"}
"""Official options that are arguments of our networks, not settings."""

FIXED = {"nonlinearity": "swish", "noise_cond": True}
"""Official options that have this value in every official configuration."""

LISTED = 8
"""The maximum number of parameters that an error message lists."""


def settings_from_spec(spec: Mapping[str, Any]) -> NetworkSettings | GuideSettings:
    """Return our settings for the official options of a score network or a guide (`name`).

    Raises UserError for an option that is missing, unknown, or has an unsupported value.
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
        name: source.layout.to_ours(state[source.name]).contiguous()
        for name, source in sources.items()
    }


class Layout(NamedTuple):
    """The conversions between the official layout of a tensor in memory and ours."""

    to_ours: Callable[[Tensor], Tensor]
    to_official: Callable[[Tensor], Tensor]


class Source(NamedTuple):
    """The official name and layout of one of our parameters."""

    name: str
    layout: Layout


SAME = Layout(lambda w: w, lambda w: w)
# in×out ↔ out×in
LINEAR = Layout(lambda w: w.mT, lambda w: w.mT)
# in×out ↔ out×in×1×1
POINTWISE = Layout(lambda w: w.mT[:, :, None, None], lambda w: w[:, :, 0, 0].mT)
# out×in×3×3 ↔ in×out×3×3, flipped
UPSAMPLING = Layout(lambda w: w.transpose(0, 1).flip(2, 3), lambda w: w.transpose(0, 1).flip(2, 3))


def official_sources(network: Encoder) -> dict[str, Source]:
    """Return the official parameter for each name in our state dict."""
    prefixes = {module: prefix for prefix, module in network.named_modules()}
    layers = [
        layer
        for layer in _in_official_order(network)
        if layer is not None and not isinstance(layer, nn.Identity)
    ]
    return {
        f"{prefixes[layer]}.{ours}": Source(f"all_modules.{i}.{official}", layout)
        for i, layer in enumerate(layers)
        for official, ours, layout in _parameters(layer, network.settings)
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


def _parameters(module: nn.Module, settings: EncoderSettings) -> Iterator[tuple[str, str, Layout]]:
    """Yield the parameters of one official layer: official name, our name, layout."""
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
                biggan = _layer("Conv_2", "shortcut")
                ddpm = _nin("NIN_0", "shortcut", POINTWISE)
                yield from biggan if settings.block == "biggan" else ddpm
        case Attention():
            yield from _layer("GroupNorm_0", "norm")
            for i, ours in enumerate(("query", "key", "value", "out")):
                yield from _nin(f"NIN_{i}", ours, LINEAR)
        case Combine():
            yield from _layer("Conv_0", "conv")
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


def _listed(items: Iterable[str]) -> str:
    items = sorted(items)
    more = f" and {len(items) - LISTED} more" if len(items) > LISTED else ""
    return f"{', '.join(items[:LISTED])}{more}"
