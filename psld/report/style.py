"""The style of all figures: colors, markers, line styles, sizes and file formats.

The colors are those of Okabe and Ito, which color-blind readers can tell apart. Markers and line
styles keep lines apart in a gray print. Figures stay readable at half their size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib import colormaps, rc
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from psld.grid.cells import Grid
from psld.utils.files import atomic_path

rc("font", size=11)
rc("axes", titlesize=11, labelsize=11, grid=True, axisbelow=True)
rc("axes.spines", top=False, right=False)
rc(("xtick", "ytick"), labelsize=10)
rc("legend", fontsize=10.5, frameon=False, handlelength=2.8)
rc("grid", color="0.9")
rc("savefig", dpi=150)
rc("svg", hashsalt="psld")  # equal figures are equal files

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*")
DASHES = ("solid", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)))

# Sizes in inches.
PANEL = (3.3, 3.1)
SINGLE_PANEL_WIDTH = 5.0
PANELS_PER_ROW = 3
PAGE_WIDTH = PANELS_PER_ROW * PANEL[0]

# Sizes in points.
LINE_WIDTH = 1.6
MARKER_SIZE = 6.5

SCALE_COLOR = "0.45"  # of reference lines and their labels
HOLE_COLOR = (0, 114, 178)  # of missing pixels; neither black nor white in a gray print


@dataclass(frozen=True)
class Look:
    """The color, marker and dashes of one line, the same in every panel."""

    color: str
    marker: str
    dash: Any = "solid"

    def ours(self) -> dict[str, Any]:
        """Return the properties of our numbers, for matplotlib."""
        return {
            "color": self.color,
            "marker": self.marker,
            "linestyle": self.dash,
            "linewidth": LINE_WIDTH,
            "markersize": MARKER_SIZE,
            "markeredgecolor": "white",  # separates overlapping markers
            "markeredgewidth": 0.5,
            "zorder": 3,
        }

    def paper(self) -> dict[str, Any]:
        """Return the properties of the paper's numbers: larger, hollow, on a thin line."""
        return self.ours() | {
            "linewidth": 0.7,
            "markersize": 1.7 * MARKER_SIZE,
            "markerfacecolor": "none",
            "markeredgecolor": self.color,
            "markeredgewidth": 1.0,
            "zorder": 2.5,
        }


def model_looks(grid: Grid) -> dict[str, Look]:
    """Return the look of each model, the same in all figures of the grid; one for all its seeds."""
    looks = {}
    for index, name in enumerate(grid.file.models):
        color, marker = COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)]
        look = Look(color, marker, DASHES[index // len(COLORS) % len(DASHES)])
        looks |= dict.fromkeys(grid.file.replicates(name), look)
    return looks


def ramp(names: Sequence[str]) -> dict[str, Look]:
    """Return looks from light to dark, for lines that are not models."""
    shades = colormaps["viridis_r"](np.linspace(0.15, 1, len(names) + 1)[1:])
    looks = zip(names, shades, cycle(MARKERS), strict=False)
    return {name: Look(to_hex(shade), marker) for name, shade, marker in looks}


def save(figure: Figure, output: str) -> None:
    """Write a figure as OUTPUT.png and OUTPUT.svg, each whole or not at all; print both paths."""
    for ending, metadata in (("svg", {"Date": None}), ("png", {})):
        with atomic_path(f"{output}.{ending}") as partial:
            figure.savefig(partial, format=ending, bbox_inches="tight", metadata=metadata)
    print(f"wrote {output}.png and {output}.svg")
