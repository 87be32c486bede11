"""Gallery: the first images of a shard as one picture.

    psld gallery shard=samples/demo/cld/em-quadratic-40/00000.h5 title=CLD output=cld.png

Samples guided to several classes stand in one row a class; inpainted images below the originals
with their holes, for which data= names the prepared dataset.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from psld.commands.entry import entry_point
from psld.data.store import ImageStore
from psld.utils.errors import UserError
from psld.report.images import draw_images, full_row
from psld.report.style import HOLE, save
from psld.sampling.shards import Shard
from psld.config.settings import Settings


class GallerySettings(Settings):
    """Settings of `psld gallery`."""

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
    names: list[str] = []
    if shard.masks is not None:
        rows = before_and_after(shard, settings)
        names = ["original", "its hole", "filled in"] * (len(rows) // 3)
    elif shard.labels is not None and len(np.unique(shard.labels)) > 1:
        rows = by_class(shard, settings)
        names = [f"class {label}" for label in np.unique(shard.labels)[: len(rows)]]
    else:
        images = shard.images[: settings.rows * settings.columns]
        rows = [full_row(row, settings.columns) for row in in_rows(images, settings.columns)]
    figure = draw_images(rows, settings.title, names)
    save(figure, settings.output.removesuffix(".png"), "png")


def by_class(shard: Shard, settings: GallerySettings) -> list[np.ndarray]:
    """The first images of each class, one row a class."""
    classes = np.unique(shard.labels)[: settings.rows]
    return [full_row(shard.images[shard.labels == c], settings.columns) for c in classes]


def before_and_after(shard: Shard, settings: GallerySettings) -> list[np.ndarray]:
    """Strips of three rows: originals, the same with their holes, and what was filled in; RGB."""
    originals, known = originals_of(shard, settings), shard.masks[:, None] == 1
    masked = np.where(known, originals, np.array(HOLE, np.uint8)[:, None, None])
    pictures = (originals, masked, shard.images)
    parts = [in_rows(np.broadcast_to(p, masked.shape), settings.columns) for p in pictures]
    strips = list(zip(*parts, strict=True))[: max(1, settings.rows // 3)]
    return [full_row(row, settings.columns) for strip in strips for row in strip]


def in_rows(images: np.ndarray, columns: int) -> list[np.ndarray]:
    """The images in rows of `columns`; the last may have fewer."""
    return [images[i : i + columns] for i in range(0, len(images), columns)]


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


if __name__ == "__main__":
    main()
