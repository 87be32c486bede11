"""Gallery: the first images of a shard as one picture.

    python -m psld.gallery shard=samples/demo/cld/em-quadratic-40/00000.h5 title=CLD output=cld.png

Samples guided to several classes stand in one row a class; inpainted images below the originals
with their holes, for which data= names the prepared dataset.
"""

from typing import Literal

import matplotlib
import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torchvision.utils import make_grid

from psld.cli import entry_point
from psld.datasets.store import ImageStore
from psld.errors import UserError
from psld.files import atomic_path
from psld.samplers.shards import Shard
from psld.settings import Settings

matplotlib.use("Agg")

from matplotlib import pyplot as plt

INCHES = 8
HOLE = (0, 114, 178)
"""Colour of missing pixels: a blue that is neither black nor white in grey."""


class GallerySettings(Settings):
    """Settings of `python -m psld.gallery`."""

    shard: str
    """A shard, HDF5."""
    title: str
    output: str = Field(pattern=r"\.png$")
    """The picture."""
    rows: int = Field(ge=1)
    columns: int = Field(ge=1)
    data: str | None
    """The prepared dataset of inpainted images; null otherwise."""
    split: Literal["train", "test"]
    """The split that they are of."""


@entry_point("gallery", GallerySettings)
def main(settings: GallerySettings) -> None:
    shard = Shard.load(settings.shard)
    if shard.masks is not None:
        images = before_and_after(shard, settings)
    elif shard.labels is not None and len(np.unique(shard.labels)) > 1:
        images = by_class(shard, settings)
    else:
        images = torch.from_numpy(shard.images[: settings.rows * settings.columns])
    draw(images, settings)


def by_class(shard: Shard, settings: GallerySettings) -> Tensor:
    """The first images of each class, one row a class."""
    images, labels = torch.from_numpy(shard.images), torch.from_numpy(shard.labels)
    rows = [images[labels == label] for label in labels.unique()[: settings.rows]]
    return torch.cat([full_row(row, settings.columns) for row in rows])


def before_and_after(shard: Shard, settings: GallerySettings) -> Tensor:
    """Strips of three rows: originals, the same with their holes, and what was filled in; RGB."""
    originals = torch.from_numpy(originals_of(shard, settings))
    filled, known = torch.from_numpy(shard.images), torch.from_numpy(shard.masks)[:, None]
    hole = torch.tensor(HOLE, dtype=torch.uint8)[:, None, None]
    masked = torch.where(known == 1, originals, hole)
    parts = [part.expand_as(masked).split(settings.columns) for part in (originals, masked, filled)]
    strips = list(zip(*parts, strict=True))[: max(1, settings.rows // 3)]
    return torch.cat([full_row(row, settings.columns) for strip in strips for row in strip])


def full_row(images: Tensor, columns: int) -> Tensor:
    """The first images of a row, and blank ones where there are too few; N×C×H×W."""
    blank = torch.full_like(images[:1], 255).expand(columns, -1, -1, -1)
    return torch.cat([images, blank])[:columns]


def originals_of(shard: Shard, settings: GallerySettings) -> np.ndarray:
    """The images whose holes the shard fills. Raises UserError where the dataset is another."""
    if settings.data is None:
        raise UserError(f"data: the originals of {settings.shard} are in the dataset; it is null")
    store = ImageStore.open(settings.data)
    if store.digest != shard.origin.dataset_digest:
        raise UserError(f"{settings.data}: not the images that {settings.shard} was made from")
    first = shard.origin.index * shard.origin.size
    images = store.images(settings.split)[first : first + len(shard.images)]
    if len(images) < len(shard.images):
        raise UserError(f"split: {settings.shard} is not of the {settings.split} split")
    return np.array(images)


def draw(images: Tensor, settings: GallerySettings) -> None:
    grid = make_grid(images, nrow=settings.columns, padding=1, pad_value=255)
    height, width = grid.shape[1:]
    figure, axes = plt.subplots(figsize=(INCHES, INCHES * height / width + 0.4))
    # Nearest neighbour: a reader should see the pixels that were sampled.
    axes.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest")
    axes.set_title(settings.title)
    axes.axis("off")
    with atomic_path(settings.output) as partial:
        figure.savefig(partial, format="png", dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    main()
