"""Rows of images as one picture, with a name beside each row. Without torch, which takes longer to
import than all of it to draw."""

from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from psld.report.style import PAGE

HEADING = 0.4
"""Inches of the title."""
LETTER = 0.085
"""Inches of a letter beside a row."""

WHITE = 255


def draw_images(rows: Sequence[np.ndarray], title: str, names: Sequence[str] = ()) -> Figure:
    """One row of images for each of `rows`, all with as many.

    Args:
        rows: uint8, n×C×H×W each.
        names: what stands beside each row, if anything; an empty name marks no row.
    """
    picture, middles = tiled(rows)
    height, width = picture.shape[:2]
    beside = LETTER * max(map(len, names), default=0)
    inches = PAGE - beside
    figure = plt.figure(figsize=(PAGE, inches * height / width + HEADING))
    share = 1 - HEADING / figure.get_size_inches()[1]
    axes = figure.add_axes((beside / PAGE, 0, inches / PAGE, share))
    # Nearest neighbour: a reader should see the pixels that were sampled.
    axes.imshow(picture, interpolation="nearest", aspect="auto")
    axes.set(title=title, xticks=[])
    shown = [(middle, name) for middle, name in zip(middles, names, strict=False) if name]
    axes.set_yticks([middle for middle, _ in shown], [name for _, name in shown])
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    return figure


def tiled(rows: Sequence[np.ndarray]) -> tuple[np.ndarray, list[float]]:
    """The images as one, H×W×3, with white between them; and the middle of each row, in pixels."""
    images = np.stack(rows)
    count, columns, channels, height, width = images.shape
    margin = max(1, width // 32)
    border = ((0, 0), (0, 0), (0, 0), (margin, 0), (margin, 0))
    bordered = np.pad(images, border, constant_values=WHITE)
    whole = bordered.transpose(0, 3, 1, 4, 2)
    whole = whole.reshape(count * (height + margin), columns * (width + margin), channels)
    whole = np.pad(whole, ((0, margin), (0, margin), (0, 0)), constant_values=WHITE)
    middles = [margin + row * (height + margin) + (height - 1) / 2 for row in range(count)]
    return np.broadcast_to(whole, (*whole.shape[:2], 3)), middles


def full_row(images: np.ndarray, columns: int) -> np.ndarray:
    """The first images of a row, and blank ones where there are too few; n×C×H×W."""
    blank = np.full((columns, *images.shape[1:]), WHITE, np.uint8)
    return np.concatenate([images, blank])[:columns]
