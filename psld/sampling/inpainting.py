"""The known pixels of inpainted samples: image i of a split, with mask i, in any shard."""

from typing import cast

import numpy as np
import torch

from psld.config.parts import naming
from psld.data.store import ImageStore, Split, from_uint8
from psld.diffusion.guidance import Mask
from psld.diffusion.integrators import Inpainting
from psld.sampling.settings import CellSettings
from psld.sampling.shards import ShardOrigin
from psld.training.model import Model
from psld.utils.errors import UserError


def draw_masks(mask: Mask, indices: range, image_size: int, mnist: str | None) -> np.ndarray:
    """Return the masks of some images, uint8 N×H×W: 1 for a known pixel, 0 in the hole.

    `mnist` is the prepared MNIST, for masks of its digits. Raises UserError for a mask of one's own
    that gives something else.
    """
    with naming("sampler.guidance.mask", mask, "draw"):
        drawn = np.asarray(mask.draw(indices, image_size, mnist))
        if drawn.shape != (needed := (len(indices), image_size, image_size)):
            raise ValueError(f"gives an array {drawn.shape}; {needed} is needed")
        if not np.isin(drawn, (0, 1)).all():
            raise ValueError("gives other numbers than 0 and 1")
    return drawn.astype(np.uint8)


def known_pixels(
    cell: CellSettings, model: Model, origin: ShardOrigin, indices: range, device: torch.device
) -> Inpainting:
    """Return the images of the split at these indices, as far as they exist, and their masks.

    Raises UserError if none exists, or if they are not those of the origin.
    """
    dataset = model.settings.dataset
    split, mask = cast(tuple[Split, Mask], cell.sampler.guidance.holes)
    store = ImageStore.open_for(cast(str, cell.data), dataset)
    images = store.images(split)
    if indices.start >= len(images):
        raise UserError(
            f"shard {indices.start // cell.shard_size}: begins at image {indices.start}, but "
            f"the {split} split of {cell.data} has {len(images)}; "
            "ask for no more samples than images"
        )
    indices = indices[: len(images) - indices.start]
    drawn = torch.from_numpy(draw_masks(mask, indices, dataset.image_size, cell.mnist))
    read = (store.digest, cell.mnist and ImageStore.open(cell.mnist).digest)
    if read != (origin.dataset_digest, origin.masks_digest):
        raise UserError(f"{cell.data}, or the masks: replaced while they were read; sample again")
    known = torch.from_numpy(images[indices.start : indices.stop].copy()).to(device)
    return Inpainting(model.process, from_uint8(known), drawn[:, None].to(device))
