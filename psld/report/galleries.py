"""Figures of samples: the images of one shard, or those of several cells in rows."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from psld.data.store import ImageStore, Split
from psld.report.style import HOLE_COLOR, PAGE_WIDTH
from psld.sampling.shards import Shard
from psld.utils.errors import UserError

TITLE_HEIGHT = 0.4  # inches
LETTER_WIDTH = 0.085  # inches, in the name of a row
WHITE = 255


def draw_shard(
    shard: Shard, title: str, rows: int, columns: int, originals: np.ndarray | None = None
) -> Figure:
    """Draw the first images of a shard.

    Samples guided to several classes have one row per class. Inpainted images have three rows:
    the `originals`, the originals with holes, and the samples.
    """
    names: list[str] = []
    if shard.masks is not None:
        lines = before_and_after(shard, originals, rows, columns)
        names = ["original", "its hole", "filled in"] * (len(lines) // 3)
    elif shard.labels is not None and len(np.unique(shard.labels)) > 1:
        lines = by_class(shard, rows, columns)
        names = [f"class {label}" for label in np.unique(shard.labels)[: len(lines)]]
    else:
        lines = full_rows(shard.images[: rows * columns], columns)
    return draw_images(lines, title, names)


def draw_comparison(shards: Mapping[str, Shard], title: str, columns: int) -> Figure:
    """Draw the same samples of several cells, one row per cell."""
    columns = min(columns, max(len(shard.images) for shard in shards.values()))
    lines = [full_row(shard.images, columns) for shard in shards.values()]
    return draw_images(lines, title, list(shards))


def by_class(shard: Shard, rows: int, columns: int) -> list[np.ndarray]:
    """Return the first images of each class, one row per class."""
    classes = np.unique(shard.labels)[:rows]
    return [full_row(shard.images[shard.labels == label], columns) for label in classes]


def before_and_after(
    shard: Shard, originals: np.ndarray, rows: int, columns: int
) -> list[np.ndarray]:
    """Return triples of RGB rows: originals, originals with holes, samples."""
    known = shard.masks[:, None] == 1
    masked = np.where(known, originals, np.array(HOLE_COLOR, np.uint8)[:, None, None])
    parts = [np.broadcast_to(part, masked.shape) for part in (originals, masked, shard.images)]
    triples = zip(*(full_rows(part, columns) for part in parts), strict=True)
    return [row for triple in list(triples)[: max(1, rows // 3)] for row in triple]


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


def draw_images(rows: Sequence[np.ndarray], title: str, names: Sequence[str] = ()) -> Figure:
    """Draw rows of equally many images, uint8, n×C×H×W, with their names on the left."""
    pixels, centers = tiled(rows)
    height, width = pixels.shape[:2]
    margin = LETTER_WIDTH * max(map(len, names), default=0)
    inches = PAGE_WIDTH - margin
    total = inches * height / width + TITLE_HEIGHT
    figure = plt.figure(figsize=(PAGE_WIDTH, total))
    axes = figure.add_axes((margin / PAGE_WIDTH, 0, inches / PAGE_WIDTH, 1 - TITLE_HEIGHT / total))
    axes.imshow(pixels, interpolation="nearest", aspect="auto")
    axes.set(title=title, xticks=[])
    named = [(center, name) for center, name in zip(centers, names, strict=False) if name]
    axes.set_yticks([center for center, _ in named], [name for _, name in named])
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    return figure


def tiled(rows: Sequence[np.ndarray]) -> tuple[np.ndarray, list[float]]:
    """Return all images as one, H×W×3, on white, and the center of each row in pixels."""
    images = np.stack(rows)
    count, columns, channels, height, width = images.shape
    margin = max(1, width // 32)
    border = ((0, 0), (0, 0), (0, 0), (margin, 0), (margin, 0))
    whole = np.pad(images, border, constant_values=WHITE).transpose(0, 3, 1, 4, 2)
    whole = whole.reshape(count * (height + margin), columns * (width + margin), channels)
    whole = np.pad(whole, ((0, margin), (0, margin), (0, 0)), constant_values=WHITE)
    centers = [margin + row * (height + margin) + (height - 1) / 2 for row in range(count)]
    return np.broadcast_to(whole, (*whole.shape[:2], 3)), centers


def full_row(images: np.ndarray, columns: int) -> np.ndarray:
    """Return the first `columns` images, n×C×H×W, and white ones if there are fewer."""
    white = np.full((columns, *images.shape[1:]), WHITE, np.uint8)
    return np.concatenate([images, white])[:columns]


def full_rows(images: np.ndarray, columns: int) -> list[np.ndarray]:
    """Return all images in rows of `columns`."""
    return [full_row(images[i : i + columns], columns) for i in range(0, len(images), columns)]
