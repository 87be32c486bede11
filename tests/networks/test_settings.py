"""The networks of configs/network: settings, parameter counts, and errors for bad settings."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from psld.config.settings import parse
from psld.networks.ncsnpp import NCSNpp, NCSNppGuide
from psld.networks.settings import EncoderSettings, GuideSettings, NetworkSettings
from psld.utils.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs" / "network"

# Channels for RGB: position and momentum as input, both (PSLD) or one (CLD) as output; VP-SDE 3, 3.
NETWORK_SIZES = [
    ("cifar10-ablation", 32, 6, 6, 39_397_254),
    ("cifar10-ablation", 32, 3, 3, 39_390_339),
    ("cifar10-55m", 32, 6, 6, 55_743_110),
    ("cifar10-sota", 32, 6, 3, 97_620_867),
    ("celeba64-ablation", 64, 6, 6, 66_722_182),
    ("celeba64-sota", 64, 6, 6, 62_769_158),
    ("afhqv2-ablation", 128, 6, 6, 65_816_582),
    ("afhqv2-sota", 128, 6, 3, 128_449_443),
]


@pytest.mark.parametrize(("name", "size", "channels_in", "channels_out", "count"), NETWORK_SIZES)
def test_network_has_the_size_of_the_paper(name, size, channels_in, channels_out, count):
    with torch.device("meta"):
        network = NCSNpp(read(name, NetworkSettings), size, channels_in, channels_out)
    assert parameters_of(network) == count


@pytest.mark.parametrize(
    ("name", "size", "classes", "count"),
    [("guide-cifar10", 32, 10, 56_666_368), ("guide-afhqv2", 128, 3, 57_761_024)],
)
def test_guide_size(name, size, classes, count):
    with torch.device("meta"):
        guide = NCSNppGuide(read(name, GuideSettings), size, 6, classes)
    assert parameters_of(guide) == count


def test_demo_network_is_small():
    network = NCSNpp(read("demo", NetworkSettings), 8, 2, 2)
    assert 250_000 <= parameters_of(network) <= 1_000_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_channels": 30}, "base_channels: .*multiple of 4"),
        ({"channel_multipliers": [1, 0]}, r"channel_multipliers\.1: .*greater than 0"),
        ({"block": "resnet"}, "block: .*'biggan' or 'ddpm'"),
        ({"n_heads": 4}, "unknown key n_heads"),
    ],
)
def test_bad_setting_is_named(change, message):
    content = {**OmegaConf.to_container(OmegaConf.load(CONFIGS / "demo.yaml")), **change}
    with pytest.raises(UserError, match=f"network: {message}"):
        parse(NetworkSettings, content, "network")


def test_guide_has_no_progressive_output():
    content = OmegaConf.to_container(OmegaConf.load(CONFIGS / "demo.yaml"))
    with pytest.raises(UserError, match="unknown key progressive_output"):
        parse(GuideSettings, {**content, "progressive_output": "none"}, "guide")


def read(name: str, kind: type[EncoderSettings]) -> EncoderSettings:
    path = CONFIGS / f"{name}.yaml"
    return parse(kind, OmegaConf.to_container(OmegaConf.load(path)), str(path))


def parameters_of(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
