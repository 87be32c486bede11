"""The options of the official networks, as reference vectors name them, mapped to our settings."""

from collections.abc import Mapping
from typing import Any

from psld.networks.settings import GuideSettings, NetworkSettings

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


def settings_from_spec(spec: Mapping[str, Any]) -> NetworkSettings | GuideSettings:
    """Our settings for the official options of a score network or a guide (`name`)."""
    known = SPEC_KEYS.keys() | SHAPE_KEYS | FIXED.keys() | {"name", "fir", "progressive"}
    assert spec.keys() <= known
    assert all(spec.get(key, value) == value for key, value in FIXED.items())
    content = {ours: spec[official] for official, ours in SPEC_KEYS.items() if official in spec}
    content["resampling"] = "fir" if spec.get("fir") else "plain"
    if spec["name"] == "ncsnpp_clf":
        return GuideSettings(**content)
    assert spec["name"] == "ncsnpp"
    return NetworkSettings(**content, progressive_output=spec.get("progressive", "none"))
