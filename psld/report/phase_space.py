"""The way of one image through phase space: position and momentum, from noise to data."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from torch import Tensor

from psld.data.pixels import to_uint8
from psld.report.style import LINE_WIDTH, MARKER_SIZE, PAGE, SCALE, Look, ramp

BLOCKS = ("position x", "momentum m / √M", "auxiliary")
"""What the blocks of a state are called; all but the first two are auxiliary."""

CONTRAST = 2.0
"""Deviations from the mean that are white and black in pictures of all blocks but the position,
whose pixels are shown as they are."""

PLANE = 4.2
"""Inches of the lower half."""


def draw_trace(
    times: Sequence[float], states: Tensor, columns: int, pixels: int, title: str
) -> Figure:
    """Above, the blocks at some times; below, a few pixels in phase space and over time.

    Args:
        times: forward times, descending.
        states: the blocks at these times in units of their stationary deviations, times×k×C×H×W.
        columns: how many of the times are shown above, evenly spread over the steps.
        pixels: how many pixels are followed, from the darkest to the brightest of the image.
    """
    blocks = states.shape[1]
    size = PAGE / columns
    figure = plt.figure(figsize=(PAGE, 1.12 * size * blocks + 0.5 + PLANE), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1.12 * size * blocks + 0.5, PLANE])
    above.suptitle(title)
    chosen = np.linspace(0, len(times) - 1, columns).round().astype(int)
    places = spread_pixels(states[-1, 0], pixels)
    looks = list(ramp([str(place) for place in places]).values())
    panels = above.subplots(blocks, columns, squeeze=False)
    _draw_pictures(panels, [times[i] for i in chosen], states[chosen])
    for (row, column), look in zip(places, looks, strict=True):
        for block in panels:
            block[-1].plot(column, row, look.marker, **_ringed(look))
    left, right = below.subfigures(1, 2, width_ratios=[1, 1.25])
    values = torch.stack([states[:, :2, _channel(states), r, c] for r, c in places])
    _draw_plane(left.subplots(), values.numpy(), looks)
    _draw_courses(right.subplots(2, 1, sharex=True), times, values.numpy(), looks)
    return figure


def spread_pixels(image: Tensor, count: int) -> list[tuple[int, int]]:
    """Places of pixels whose values are evenly spread from the darkest to the brightest, of an
    image C×H×W."""
    brightness = image[_channel(image[None, None])]
    wanted = torch.linspace(float(brightness.min()), float(brightness.max()), count)
    nearest = (brightness.flatten()[:, None] - wanted).abs().argmin(dim=0).tolist()
    return [divmod(place, brightness.shape[1]) for place in nearest]


def _channel(states: Tensor) -> int:
    """The channel whose pixels are followed: the middle one, which is green in RGB."""
    return states.shape[2] // 2


def _ringed(look: Look) -> dict:
    return {
        "markersize": MARKER_SIZE,
        "markerfacecolor": look.colour,
        "markeredgecolor": "white",
        "markeredgewidth": 1.2,
    }


def _draw_pictures(panels: np.ndarray, times: list[float], states: Tensor) -> None:
    for block, row in enumerate(panels):
        shown = states[:, block] if block == 0 else states[:, block] / CONTRAST
        for axes, picture, t in zip(row, to_uint8(shown).permute(0, 2, 3, 1), times, strict=True):
            pixels = picture.squeeze(-1).numpy()
            axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.grid(visible=False)
            axes.spines[:].set_visible(False)
            if block == 0:
                axes.set_title(f"t = {t:.2g}", fontsize=10)
        row[0].set_ylabel(BLOCKS[min(block, 2)].split(" /")[0].replace(" ", "\n"), fontsize=10)


def _draw_plane(axes: Axes, values: np.ndarray, looks: list[Look]) -> None:
    """Ways in the plane of position and momentum; `values` is pixels×times×2."""
    for radius in (1, 2):
        axes.add_patch(Circle((0, 0), radius, fill=False, color=SCALE, linestyle=":"))
    for (x, m), look in zip(values.transpose(0, 2, 1), looks, strict=True):
        axes.plot(x, m, color=look.colour, linewidth=0.7 * LINE_WIDTH, alpha=0.75)
        axes.plot(x[0], m[0], look.marker, color=look.colour, markerfacecolor="white")
        axes.plot(x[-1], m[-1], look.marker, zorder=4, **_ringed(look))
    reach = max(2.6, 1.05 * np.abs(values).max())
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    axes.set(xlabel=BLOCKS[0], ylabel=BLOCKS[1])
    title = "from noise (hollow) to data (filled)\ndotted: 1σ and 2σ of the noise"
    axes.set_title(title, fontsize=10)


def _draw_courses(
    panels: np.ndarray, times: Sequence[float], values: np.ndarray, looks: list[Look]
) -> None:
    """The same over time, which runs from noise on the left to data on the right."""
    for block, axes in enumerate(panels):
        for pixel, look in zip(values, looks, strict=True):
            axes.plot(times, pixel[:, block], color=look.colour, linewidth=0.7 * LINE_WIDTH)
            axes.plot(times[-1], pixel[-1, block], look.marker, clip_on=False, **_ringed(look))
        axes.set_ylabel(BLOCKS[block])
    panels[0].invert_xaxis()
    panels[1].set_xlabel("forward time t, from noise to data")
