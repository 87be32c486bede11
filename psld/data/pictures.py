"""Convert the values of a dataset to pictures: bytes, decoded tensors, or channels of tensors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from psld.config.parts import imported
from psld.data.settings import Autoencoder, DatasetSettings
from psld.data.units import Units
from psld.utils.errors import UserError

BATCH = 250
"""The number of tensors that are decoded at once."""
SHOWN = 3.0
"""In gray pictures of tensors, black is m − SHOWN · s and white is m + SHOWN · s, with the mean m
and the standard deviation s of the channel."""

AsPictures = Callable[[np.ndarray], np.ndarray]
"""Makes uint8 pictures N×C′×H′×W′ from the values of a dataset, N×C×H×W."""


def decoder(part: Autoencoder, device: torch.device | str, record: str | Path) -> AsPictures:
    """Return the decoder of a dataset.

    `record`: the folder of the file that names the autoencoder; see `imported`.

    Raises UserError if the code is not allowed to run or the weights have changed. The
    returned function raises UserError if the autoencoder does not return uint8 pictures.
    """
    built: Any = imported(part, record).build(torch.device(device))

    @torch.no_grad()
    def decode(values: np.ndarray) -> np.ndarray:
        batches = torch.from_numpy(np.array(values, np.float32)).split(BATCH)
        decoded = torch.cat([built.decode(each.to(device)).cpu() for each in batches])
        if decoded.dtype != torch.uint8 or decoded.ndim != 4:
            found = f"{decoded.dtype} {tuple(decoded.shape)}"
            raise UserError(f"dataset.decode: decode returned {found}, not uint8 N×C×H×W")
        return decoded.numpy()

    return decode


def pictures_of(
    dataset: DatasetSettings,
    units: Units,
    device: torch.device | str = "cpu",
    record: str | Path = "data",
) -> AsPictures:
    """Return the function that converts the values of a dataset to pictures for figures.

    Without a decoder, each channel of a tensor becomes a gray picture. The pictures of a tensor are
    placed side by side.
    """
    if dataset.dtype == "uint8":
        return lambda images: images
    if dataset.decode:
        return decoder(dataset.decode, device, record)

    def in_gray(values: np.ndarray) -> np.ndarray:
        x = units.seen(torch.from_numpy(np.array(values))).numpy()
        levels = np.clip((x / SHOWN + 1) * 127.5, 0, 255).astype(np.uint8)
        return np.concatenate(np.split(levels, levels.shape[1], axis=1), axis=3)

    return in_gray
