"""Small networks for the tests."""

import itertools
from collections.abc import Iterable
from typing import Any

import pytest
import torch

from psld.networks.ncsnpp import Encoder
from psld.networks.settings import GuideSettings, NetworkSettings

SMALL: dict[str, Any] = {
    "base_channels": 8,
    "channel_multipliers": (1, 2, 2),
    "blocks_per_level": 1,
    "attention_resolutions": (4, 8),
}
SIZE = 8

BLOCKS = (
    {"block": "biggan"},
    {"block": "ddpm", "resample_with_conv": True},
    {"block": "ddpm", "resample_with_conv": False},
)
RESAMPLINGS = (
    {"resampling": "plain"},
    {"resampling": "fir", "fir_kernel": (1, 3, 3, 1)},
    {"resampling": "fir", "fir_kernel": (1, 2, 4)},  # odd and asymmetric
)
INPUTS = (
    {"progressive_input": "none"},
    {"progressive_input": "input_skip", "progressive_combine": "sum"},
    {"progressive_input": "input_skip", "progressive_combine": "cat"},
    {"progressive_input": "residual"},
)
OUTPUTS = (
    {"progressive_output": "none"},
    {"progressive_output": "output_skip"},
    {"progressive_output": "residual"},
)
OTHERS = (
    {"embedding": "positional", "skip_rescale": True},
    {"embedding": "fourier", "skip_rescale": False},
)


def _merged(choices: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return {key: value for choice in choices for key, value in choice.items()}


def name_of(options: dict[str, Any]) -> str:
    return "-".join(str(value) for value in options.values())


OPTIONS = [
    _merged((*choices, OTHERS[i % 2]))
    for i, choices in enumerate(itertools.product(BLOCKS, RESAMPLINGS, INPUTS, OUTPUTS))
]
"""All combinations of the options that change the structure; the other options alternate."""

EVERY_OPTION = pytest.mark.parametrize(
    "options",
    [pytest.param(o, marks=[pytest.mark.slow] if i % 5 else []) for i, o in enumerate(OPTIONS)],
    ids=[name_of(options) for options in OPTIONS],
)
"""Every fifth combination is a fast test; these cover every pair of two options."""


def small(**options: Any) -> NetworkSettings:
    return NetworkSettings(**{**SMALL, **options})


def small_guide(**options: Any) -> GuideSettings:
    return GuideSettings(**{**SMALL, **options})


def unsettled(network: Encoder, seed: int = 0) -> Encoder:
    """Return the network with all weights changed, so that each affects the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


def images_and_times(batch: int = 2, channels: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, channels, SIZE, SIZE, generator=generator)
    return x, torch.linspace(0.01, 1.0, batch)
