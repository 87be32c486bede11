"""The known pixels of inpainted samples: image i of a split, with mask i, in any shard."""

from typing import cast

import numpy as np
import torch

from psld.data.store import ImageStore, from_uint8
from psld.diffusion.guidance import DigitsMask, HalvesMask, InpaintingGuidance
from psld.diffusion.integrators import Inpainting
from psld.sampling.settings import CellSettings
from psld.sampling.shards import ShardOrigin
from psld.training.model import Model
from psld.utils.errors import UserError

SIDES = ("left", "right", "top", "bottom")


def draw_masks(
    settings: HalvesMask | DigitsMask, indices: range, image_size: int, mnist: str | None
) -> np.ndarray:
    """Return the masks of some images, uint8 N×H×W: 1 for a known pixel, 0 in the hole.

    `mnist` is the prepared MNIST, for masks of its digits.
    """
    match settings:
        case HalvesMask(missing=missing):
            known = [_half(missing, index, image_size) for index in indices]
        case DigitsMask():
            known = _digits(ImageStore.open(cast(str, mnist)), indices, image_size)
    return np.asarray(known, np.uint8)


def masks_digest(settings: HalvesMask | DigitsMask, mnist: str | None) -> str | None:
    """Return the digest of the file that the masks come from; None without a file."""
    return ImageStore.open(cast(str, mnist)).digest if isinstance(settings, DigitsMask) else None


def known_pixels(
    cell: CellSettings, model: Model, origin: ShardOrigin, indices: range, device: torch.device
) -> Inpainting:
    """Return the images of the split at these indices, as far as they exist, and their masks.

    Raises UserError if none exists, or if they are not those of the origin.
    """
    guidance, dataset = cast(InpaintingGuidance, cell.sampler.guidance), model.settings.dataset
    store = ImageStore.open_for(cast(str, cell.data), dataset)
    images = store.images(guidance.split)
    if indices.start >= len(images):
        raise UserError(
            f"shard {indices.start // cell.shard_size}: begins at image {indices.start}, but "
            f"the {guidance.split} split of {cell.data} has {len(images)}; "
            "ask for no more samples than images"
        )
    indices = indices[: len(images) - indices.start]
    mask = torch.from_numpy(draw_masks(guidance.mask, indices, dataset.image_size, cell.mnist))
    read = (store.digest, masks_digest(guidance.mask, cell.mnist))
    if read != (origin.dataset_digest, origin.masks_digest):
        raise UserError(f"{cell.data}, or the masks: replaced while they were read; sample again")
    known = torch.from_numpy(images[indices.start : indices.stop].copy()).to(device)
    return Inpainting(model.process, from_uint8(known), mask[:, None].to(device))


def _half(missing: str, index: int, size: int) -> np.ndarray:
    if missing == "cycle":
        missing = SIDES[index % 4]
    known = np.ones((size, size), bool)
    rows_or_columns = known.T if missing in ("left", "right") else known
    rows_or_columns[: size // 2] = False
    return known if missing in ("left", "top") else known[::-1, ::-1]


def _digits(mnist: ImageStore, indices: range, size: int) -> np.ndarray:
    """Return masks whose holes are digits, resized to the nearest pixel as in Pillow.

    Every pixel of the stroke, even a faint one, is in the hole, as in the official code.
    """
    digits = mnist.images("train")
    nearest = ((np.arange(size) + 0.5) * digits.shape[-1] / size).astype(int)
    chosen = digits[np.array(indices) % len(digits), 0]
    return chosen[:, nearest[:, None], nearest] == 0
