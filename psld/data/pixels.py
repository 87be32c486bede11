"""Pixels are bytes in files and numbers in [−1, 1] in networks; images are quantized only here."""

import torch
from torch import Tensor


def from_uint8(images: Tensor) -> Tensor:
    """uint8 → float32 in [−1, 1]: x = u / 127.5 − 1."""
    return images.to(torch.float32) / 127.5 - 1


def truncated(images: Tensor) -> Tensor:
    """uint8 → uint8: a dataset's images as the official code writes them, computed in float64.

    95 of the 256 levels become one lower.
    """
    return to_uint8((images.to(torch.float64) / 127.5 - 1).to(torch.float32))


def to_uint8(x: Tensor) -> Tensor:
    """Numbers → uint8: u = (x/2 + 1/2) · 255, clipped to [0, 255] and truncated.

    The official code truncates instead of rounding, which makes images half a level darker on
    average and changes the FID. In float32 `to_uint8(from_uint8(u))` is u or, if u/127.5 is
    rounded down, u − 1.
    """
    return ((x * 0.5 + 0.5) * 255).clamp(0, 255).to(torch.uint8)
