"""The units of a dataset's values, and the values that networks see.

Pictures are bytes; networks see x = u / 127.5 − 1 in [−1, 1]. Tensors are floats in any units v;
networks see x = (v − m) / s, with the mean m and the standard deviation s of each channel.
"""

from functools import lru_cache
from typing import TYPE_CHECKING

from psld.config.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor


class Units(Settings):
    """The units of stored values: bytes, or floats with a mean and a deviation per channel."""

    mean: tuple[float, ...] = ()
    """Mean m of each channel over the training split; empty for bytes."""
    std: tuple[float, ...] = ()
    """Standard deviation s of each channel over the training split, or 1 for a constant channel;
    empty for bytes."""

    @property
    def dtype(self) -> str:
        """The type of the stored values."""
        return "float32" if self.mean else "uint8"

    def seen(self, values: "Tensor") -> "Tensor":
        """Convert stored values N×C×H×W to float32, as networks see them."""
        if not self.mean:
            return from_uint8(values)
        mean, std = _as_tensors(self.mean, self.std, values.device)
        return (values.float() - mean) / std

    def stored(self, x: "Tensor") -> "Tensor":
        """Convert values N×C×H×W as networks see them to stored values, uint8 or float32."""
        if not self.mean:
            return to_uint8(x)
        mean, std = _as_tensors(self.mean, self.std, x.device)
        return x.float() * std + mean


BYTES = Units()


@lru_cache(64)
def _as_tensors(
    mean: tuple[float, ...], std: tuple[float, ...], device: "torch.device"
) -> tuple["Tensor", "Tensor"]:
    """Return the mean and the standard deviation, C×1×1. Caching avoids copies to the GPU."""
    import torch

    values = torch.tensor([mean, std], dtype=torch.float32).to(device)
    return values[0, :, None, None], values[1, :, None, None]


class Moments:
    """The mean and the variance of each channel, from blocks of float arrays n×C×H×W."""

    def __init__(self, channels: int) -> None:
        import numpy as np

        self.count, self.mean, self.squares = 0, np.zeros(channels), np.zeros(channels)

    def add(self, block: "np.ndarray") -> None:
        """Add a block with the update of Chan et al. (1983), which is accurate for large means."""
        values = block.astype("f8").swapaxes(0, 1).reshape(len(self.mean), -1)
        count, mean = values.shape[1], values.mean(axis=1)
        self.squares += ((values - mean[:, None]) ** 2).sum(axis=1)
        total, shift = self.count + count, mean - self.mean
        self.squares += shift**2 * (self.count * count / total)
        self.mean, self.count = self.mean + shift * (count / total), total

    @property
    def units(self) -> Units:
        std = (self.squares / max(self.count, 1)) ** 0.5
        scale = [each if each > 0 else 1.0 for each in std.tolist()]
        return Units(mean=tuple(self.mean.tolist()), std=tuple(scale))


# -- pixels: uint8 in files, [−1, 1] in networks; images are quantized only here -------------------


def from_uint8(images: "Tensor") -> "Tensor":
    """Convert uint8 to float32 in [−1, 1]: x = u / 127.5 − 1."""
    # Divide by a tensor, because CUDA divides by a Python number inexactly: it multiplies by the
    # rounded inverse.
    levels = images.float()
    return levels / levels.new_full((), 127.5) - 1


def truncated(images: "Tensor") -> "Tensor":
    """Return uint8 images as the official code writes them: 95 of the 256 levels decrease by 1."""
    return to_uint8((images.double() / 127.5 - 1).float())


def to_uint8(x: "Tensor") -> "Tensor":
    """Convert numbers in [−1, 1] to uint8: u = (x/2 + 1/2) · 255, clipped to [0, 255], truncated.

    The official code truncates, too. Compared with rounding, truncation makes images half a level
    darker on average and changes the FID. In float32, `to_uint8(from_uint8(u))` is u, or u − 1 if
    u/127.5 is rounded down.
    """
    return ((x * 0.5 + 0.5) * 255).clamp(0, 255).byte()
