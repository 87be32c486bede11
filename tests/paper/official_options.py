"""The options of the official networks, as named in reference vectors, and our settings."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from psld.networks.ncsnpp import Encoder
from psld.networks.settings import GuideSettings, NetworkSettings
from psld.paper.parameters import official_parameters

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
"""Official options with the same values as our settings, and the names of our settings."""

SHAPE_KEYS = {"in_ch", "out_ch", "n_cls"}
"""Official options that are arguments of our networks and not settings."""

FIXED = {"nonlinearity": "swish", "noise_cond": True}
"""Official options that have this value in every official configuration."""


def settings_from_spec(spec: Mapping[str, Any]) -> NetworkSettings | GuideSettings:
    """Return our settings for the official options of a score network or a guide (`name`)."""
    known = SPEC_KEYS.keys() | SHAPE_KEYS | FIXED.keys() | {"name", "fir", "progressive"}
    assert spec.keys() <= known
    assert all(spec.get(key, value) == value for key, value in FIXED.items())
    content = {ours: spec[official] for official, ours in SPEC_KEYS.items() if official in spec}
    content["resampling"] = "fir" if spec.get("fir") else "plain"
    if spec["name"] == "ncsnpp_clf":
        return GuideSettings(**content)
    assert spec["name"] == "ncsnpp"
    return NetworkSettings(**content, progressive_output=spec.get("progressive", "none"))


def spec_of(settings: NetworkSettings) -> dict[str, Any]:
    """Return the official options for our settings, for 2 input and 2 output channels."""
    return {
        "name": "ncsnpp",
        "in_ch": 2,
        "out_ch": 2,
        "nonlinearity": "swish",
        "nf": settings.base_channels,
        "ch_mult": list(settings.channel_multipliers),
        "num_res_blocks": settings.blocks_per_level,
        "attn_resolutions": list(settings.attention_resolutions),
        "dropout": settings.dropout,
        "resamp_with_conv": settings.resample_with_conv,
        "noise_cond": True,
        "fir": settings.resampling == "fir",
        "fir_kernel": list(settings.fir_kernel),
        "skip_rescale": settings.skip_rescale,
        "resblock_type": settings.block,
        "progressive": settings.progressive_output,
        "progressive_input": settings.progressive_input,
        "progressive_combine": settings.progressive_combine,
        "embedding_type": settings.embedding,
        "init_scale": settings.init_scale,
        "fourier_scale": settings.fourier_scale,
    }


def official(network: Encoder) -> dict[str, Tensor]:
    """Return the weights of the network with their official names and layout."""
    ours = network.state_dict()
    return {
        source.name: source.swapped(ours[name])
        for name, source in official_parameters(network).items()
        if name in ours
    }
