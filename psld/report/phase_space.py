"""The path of one image through phase space: position and momentum, from noise to data."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from torch import Tensor

from psld.data.pixels import to_uint8
from psld.grid.cells import Cell
from psld.report.style import LINE_WIDTH, MARKER_SIZE, PAGE_WIDTH, SCALE_COLOR, Look, ramp
from psld.sampling.sample import trace_sample
from psld.training.model import load_model
from psld.utils.device import use_device

TIMES = 10
"""States that are shown as images, evenly spread over the steps from noise to data."""
PIXELS = 3
"""Pixels that are followed, from the darkest to the brightest of the image."""
BLOCKS = ("position\nx", "momentum\nm", "auxiliary")  # all after the second are auxiliary
CONTRAST = 2.0  # deviations from the mean that are black and white, except in the position
PLANE_HEIGHT = 4.2  # inches


def draw_path(cell: Cell, title: str, device: str) -> Figure:
    """Sample the first image of a cell again and draw its path through phase space."""
    model = load_model(cell.model.folder, use_device(device, tf32=True), cell.model.sampled_as)
    size = cell.options.shard_size
    return draw_trace(*trace_sample(model, cell.sampler.settings, 0, size, cell.seed), title)


def draw_trace(times: Sequence[float], states: Tensor, title: str) -> Figure:
    """Draw the blocks as images at some times; below, a few pixels in phase space.

    Args:
        times: forward times, descending.
        states: blocks in units of their stationary deviations, times×k×C×H×W.
    """
    blocks = states.shape[1]
    heights = [1.12 * PAGE_WIDTH / TIMES * blocks + 0.5, PLANE_HEIGHT]
    figure = Figure(figsize=(PAGE_WIDTH, sum(heights)), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=heights)
    above.suptitle(title, parse_math=False)
    followed = states[:, :2, states.shape[2] // 2]  # the middle channel, green in RGB
    places = spread_pixels(followed[-1, 0], PIXELS)
    looks = list(ramp([str(place) for place in places]).values())
    shown = np.linspace(0, len(times) - 1, TIMES).round().astype(int)
    panels = above.subplots(blocks, TIMES, squeeze=False)
    _draw_images(panels, [times[i] for i in shown], states[shown])
    for (row, column), look in zip(places, looks, strict=True):
        for axes in panels[:, -1]:
            axes.plot(column, row, look.marker, **_filled(look))
    paths = [followed[:, :, row, column].numpy() for row, column in places]
    _draw_plane(below.subplots(), paths, looks)
    return figure


def spread_pixels(image: Tensor, count: int) -> list[tuple[int, int]]:
    """Return at most `count` places of pixels with evenly spread brightness, in an image H×W."""
    levels = torch.linspace(float(image.min()), float(image.max()), count)
    nearest = (image.flatten()[:, None] - levels).abs().argmin(dim=0).tolist()
    return [divmod(place, image.shape[1]) for place in dict.fromkeys(nearest)]


def _filled(look: Look) -> dict[str, object]:
    return {
        "markersize": MARKER_SIZE,
        "markerfacecolor": look.color,
        "markeredgecolor": "white",
        "markeredgewidth": 1.2,
    }


def _draw_images(panels: np.ndarray, times: list[float], states: Tensor) -> None:
    for block, row in enumerate(panels):
        shown = states[:, block] if block == 0 else states[:, block] / CONTRAST
        for axes, image in zip(row, to_uint8(shown).permute(0, 2, 3, 1), strict=True):
            pixels = image.squeeze(-1).numpy()
            axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        row[0].set_ylabel(BLOCKS[min(block, 2)], fontsize=10)
    for axes, t in zip(panels[0], times, strict=True):
        axes.set_title(f"t = {t:.2g}", fontsize=10)


def _draw_plane(axes: Axes, paths: list[np.ndarray], looks: list[Look]) -> None:
    """Draw the paths of pixels, times×2 each, in the plane of position and momentum."""
    for radius in (1, 2):
        axes.add_patch(Circle((0, 0), radius, fill=False, color=SCALE_COLOR, linestyle=":"))
    for path, look in zip(paths, looks, strict=True):
        axes.plot(*path.T, color=look.color, linewidth=0.7 * LINE_WIDTH, alpha=0.75)
        axes.plot(*path[0], look.marker, color=look.color, markerfacecolor="white")
        axes.plot(*path[-1], look.marker, zorder=4, **_filled(look))
    reach = max(2.6, 1.05 * np.abs(paths).max())
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    axes.set(xlabel="position x", ylabel="momentum m / √M")
    title = "from noise (hollow) to data (filled)\ndotted: 1σ and 2σ of the noise"
    axes.set_title(title, fontsize=10)
