"""How pictures look, all of it in one place: colours, markers, line styles, sizes, files.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; in grey, markers and line
styles serve. Sizes are such that a picture can be read at half its size.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib

from psld.utils.files import atomic_path
from psld.grid.loading import Grid

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

plt.rcParams.update(
    {
        "font.size": 11,
        "axes.titlesize": 11,
        "axes.labelsize": 11,
        "legend.fontsize": 10.5,
        "xtick.labelsize": 10,
        "ytick.labelsize": 10,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "0.9",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "savefig.dpi": 150,
        "svg.hashsalt": "psld",  # equal pictures are equal files
    }
)

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*")
DASHES = ("solid", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)))

PANEL = (3.3, 3.1)
"""Inches of a panel."""
SINGLE = 5.0
"""Inches of the width of a panel that stands alone."""
PANELS_A_ROW = 3
PAGE = PANELS_A_ROW * PANEL[0]
"""Inches of a page's width."""

LINE_WIDTH = 1.6
MARKER_SIZE = 6.5
SCALE = "0.45"
"""Colour of lines and words that give a plot its scale."""
HOLE = (0, 114, 178)
"""Colour of missing pixels: a blue that is neither black nor white in grey."""


@dataclass(frozen=True)
class Look:
    """How one line looks wherever it stands."""

    colour: str
    marker: str
    dash: Any = "solid"

    def ours(self) -> dict[str, Any]:
        """How matplotlib draws our numbers."""
        return {
            "color": self.colour,
            "marker": self.marker,
            "linestyle": self.dash,
            "linewidth": LINE_WIDTH,
            "markersize": MARKER_SIZE,
            "markeredgecolor": "white",  # parts markers that lie upon each other
            "markeredgewidth": 0.5,
            "zorder": 3,
        }

    def paper(self) -> dict[str, Any]:
        """The paper's stand beside them: larger, hollow and on a thin line."""
        return self.ours() | {
            "linewidth": 0.7,
            "markersize": 1.7 * MARKER_SIZE,
            "markerfacecolor": "none",
            "markeredgecolor": self.colour,
            "markeredgewidth": 1.0,
            "zorder": 2.5,
        }


def model_looks(grid: Grid) -> dict[str, Look]:
    """The look of each model, the same in all pictures of the grid.

    A process has one colour on every dataset and with every network; what else models differ in
    shows in line style and marker. Where all have the same process, each model has its own colour.
    """
    processes = {name: model.settings["process"] for name, model in grid.models.items()}
    first = next(iter(processes.values()))
    several = any(process != first for process in processes.values())
    kinds: list[Any] = []
    variants: Counter[tuple[int, str]] = Counter()
    looks = {}
    for name, model in grid.models.items():
        kind = processes[name] if several else name
        kinds += [] if kind in kinds else [kind]
        place = kinds.index(kind)
        variant = variants[place, model.dataset]
        variants[place, model.dataset] += 1
        looks[name] = Look(
            COLOURS[place % len(COLOURS)],
            MARKERS[(place + variant) % len(MARKERS)],
            DASHES[variant % len(DASHES)],
        )
    return looks


def ramp(names: Sequence[str]) -> dict[str, Look]:
    """Looks for lines that are no models: from light to dark, in the order of their names."""
    shades = matplotlib.colormaps["viridis_r"]
    return {
        name: Look(
            matplotlib.colors.to_hex(shades(0.15 + 0.85 * (i + 1) / len(names))),
            MARKERS[i % len(MARKERS)],
        )
        for i, name in enumerate(names)
    }


def save(figure: Figure, output: str, *endings: str) -> None:
    """Write a picture as OUTPUT.png, OUTPUT.svg, …; each is whole or absent."""
    for ending in endings:
        metadata = {"Date": None} if ending == "svg" else {}
        with atomic_path(f"{output}.{ending}") as partial:
            figure.savefig(partial, format=ending, bbox_inches="tight", metadata=metadata)
    plt.close(figure)
