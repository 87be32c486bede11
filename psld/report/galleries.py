"""Figures of samples: the images of one shard, or those of several cells in rows."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from psld.data.picture import tiled
from psld.data.store import ImageStore, Split
from psld.report.style import HOLE_COLOR, PAGE_WIDTH
from psld.sampling.shards import Shard, read_shard, shard_path
from psld.utils.errors import UserError

TITLE_HEIGHT = 0.4  # inches
LETTER_WIDTH = 0.085  # inches, in the name of a row


def draw_shard(
    shard: Shard, title: str, rows: int, columns: int, originals: np.ndarray | None = None
) -> Figure:
    """Draw the first images of a shard.

    Samples guided to several classes have one row per class. Inpainted images have three rows:
    the `originals`, the originals with holes, and the samples.
    """
    if shard.masks is not None:
        lines = before_and_after(shard, originals, rows, columns)
        names = ["original", "its hole", "filled in"] * (len(lines) // 3)
    elif shard.labels is not None and len(np.unique(shard.labels)) > 1:
        classes = np.unique(shard.labels)[:rows]
        lines = [full_row(shard.images[shard.labels == label], columns) for label in classes]
        names = [f"class {label}" for label in classes]
    else:
        lines, names = [shard.images[: rows * columns]], []
    return draw_images(np.concatenate(lines), columns, title, names)


def draw_comparison(shards: Mapping[str, Shard], title: str, columns: int) -> Figure:
    """Draw the same samples of several cells, one row per cell."""
    columns = min(columns, max(len(shard.images) for shard in shards.values()))
    lines = [full_row(shard.images, columns) for shard in shards.values()]
    return draw_images(np.concatenate(lines), columns, title, list(shards))


def draw_nearest(
    pairs: Sequence[tuple[int, int]], folder: Path, shard_size: int, data: str, title: str
) -> Figure:
    """Draw samples above their nearest training images.

    Args:
        pairs: index of the sample in its cell, and of the image in the training split.
        folder: the cell's shards.
        data: the prepared dataset.
    """
    train = ImageStore.open(data).images("train")
    places = [divmod(sample, shard_size) for sample, _ in pairs]
    shards = {index: read_shard(shard_path(folder, index)) for index in {i for i, _ in places}}
    samples = [shards[index].images[row] for index, row in places]
    images = np.stack([*samples, *(train[image] for _, image in pairs)])
    return draw_images(images, len(pairs), title, ["sample", "training image"])


def before_and_after(
    shard: Shard, originals: np.ndarray, rows: int, columns: int
) -> list[np.ndarray]:
    """Return triples of RGB rows: originals, originals with holes, samples."""
    known = shard.masks[:, None] == 1
    masked = np.where(known, originals, np.array(HOLE_COLOR, np.uint8)[:, None, None])
    parts = [np.broadcast_to(part, masked.shape) for part in (originals, masked, shard.images)]
    starts = range(0, len(masked), columns)[: max(1, rows // 3)]
    return [full_row(part[i : i + columns], columns) for i in starts for part in parts]


def full_row(images: np.ndarray, columns: int) -> np.ndarray:
    """Return the first `columns` images, n×C×H×W, and white ones if there are fewer."""
    white = np.full((columns, *images.shape[1:]), 255, np.uint8)
    return np.concatenate([images, white])[:columns]


def originals_of(shard: Shard, path: Path, data: str | None, split: Split) -> np.ndarray | None:
    """Return the images whose holes a shard fills, or None for a shard that is not inpainted.

    Raises UserError if `data` is missing or not the dataset of the shard.
    """
    if shard.masks is None:
        return None
    if data is None:
        raise UserError(f"data: the originals of {path} are in the dataset; it is null")
    store = ImageStore.open(data)
    if store.digest != shard.origin.dataset_digest:
        raise UserError(f"{data}: not the images that {path} was made from")
    first = shard.origin.index * shard.origin.size
    images = store.images(split)[first : first + len(shard.images)]
    if len(images) < len(shard.images):
        raise UserError(f"split: {path} is not of the {split} split")
    return np.array(images)


def draw_images(images: np.ndarray, columns: int, title: str, names: Sequence[str] = ()) -> Figure:
    """Draw images, uint8, N×C×H×W, in rows of `columns`, with the rows' names on the left."""
    pixels = tiled(images, columns)
    height, width, _ = pixels.shape
    margin = LETTER_WIDTH * max(map(len, names), default=0)
    inches = PAGE_WIDTH - margin
    total = inches * height / width + TITLE_HEIGHT
    figure = Figure(figsize=(PAGE_WIDTH, total))
    axes = figure.add_axes((margin / PAGE_WIDTH, 0, inches / PAGE_WIDTH, 1 - TITLE_HEIGHT / total))
    rgb = np.broadcast_to(pixels, (height, width, 3))
    axes.imshow(rgb, interpolation="nearest", aspect="auto")
    axes.set_title(title, parse_math=False)
    axes.set_xticks([])
    rows, side = math.ceil(len(images) / columns), images.shape[2]
    gap = (height - rows * side) / (rows + 1)
    centers = [gap + row * (side + gap) + (side - 1) / 2 for row in range(len(names))]
    axes.set_yticks(centers, names)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    return figure
