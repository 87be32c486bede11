"""Layers with the initialization of DDPM, shared by all parts of NCSN++."""

import math
from typing import TypeVar

import torch
from torch import Tensor, nn

from psld.utils.errors import UserError

Layer = TypeVar("Layer", nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def conv3x3(
    in_channels: int, out_channels: int, scale: float = 1.0, stride: int = 1, padding: int = 1
) -> nn.Conv2d:
    return initialized(nn.Conv2d(in_channels, out_channels, 3, stride, padding), scale)


def conv1x1(in_channels: int, out_channels: int, scale: float = 1.0) -> nn.Conv2d:
    return initialized(nn.Conv2d(in_channels, out_channels, 1), scale)


def linear(in_features: int, out_features: int, scale: float = 1.0) -> nn.Linear:
    return initialized(nn.Linear(in_features, out_features), scale)


def initialized(layer: Layer, scale: float = 1.0) -> Layer:
    """Draw weights from U(−a, a), a² = 3·scale / mean(fan in, fan out), and set the bias to 0.

    Scale 0 means 1e-10, so a branch that ends in such a layer adds almost nothing at first.
    """
    nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(scale or 1e-10))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalization: at least four channels a group, at most 32 groups.

    Raises UserError if the groups would not have the same size.
    """
    groups = min(channels // 4, 32)
    if channels % groups:
        raise UserError(
            f"network: base_channels and channel_multipliers give a layer of {channels} channels, "
            f"which cannot be normalized in {groups} groups; use a base_channels divisible by 32"
        )
    return nn.GroupNorm(groups, channels, eps=1e-6)


def add_shortcut(shortcut: Tensor, branch: Tensor, rescale: bool) -> Tensor:
    """shortcut + branch, divided by √2 if `rescale`, so that the variance does not grow."""
    total = shortcut + branch
    return total * math.sqrt(0.5) if rescale else total


class Combine(nn.Module):
    """Join the input pyramid, through a 1×1 convolution, to the features of its level."""

    def __init__(self, pyramid_channels: int, channels: int, concatenate: bool):
        super().__init__()
        self.conv = conv1x1(pyramid_channels, channels)
        self.concatenate = concatenate

    def forward(self, pyramid: Tensor, h: Tensor) -> Tensor:
        joined = self.conv(pyramid)
        return torch.cat([joined, h], dim=1) if self.concatenate else joined + h
