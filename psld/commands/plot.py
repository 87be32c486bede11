"""Plot: one plot of a grid, from its results or from the histories of its trainings.

psld plot grid_name=demo plot=nfe        # distance against network evaluations
psld plot grid_name=demo plot=gamma      # distance against friction Γ
psld plot grid_name=demo plot=training   # training curves
"""

from pathlib import Path
from typing import Literal

from psld.commands.entry import CONFIGS, entry_point
from psld.utils.errors import UserError
from psld.grid.figures import plots_of
from psld.report.distances import plot_gamma, plot_nfe
from psld.report.style import save
from psld.report.curves import plot_training
from psld.grid.loading import load_grid
from psld.config.settings import Settings


class PlotSettings(Settings):
    """Settings of `psld plot`."""

    grid_name: str
    """Name of the grid, configs/grid/NAME.yaml."""
    plot: Literal["nfe", "gamma", "training"]
    """What is plotted: distance against network evaluations or against Γ, or training curves."""
    cells: Path
    """Folder of the grid's metrics files."""
    models: Path
    """Folder of the grid's models."""
    output: str
    """Path of the pictures without their ending: a PNG and an SVG."""


@entry_point("plot", PlotSettings)
def main(settings: PlotSettings) -> None:
    grid = load_grid(settings.grid_name, CONFIGS)
    known = plots_of(grid)
    if settings.plot not in known:
        raise UserError(
            f"plot: grid {grid.name} has no cells or models for {settings.plot!r}; "
            f"it has plots of: {', '.join(known) or 'nothing'}"
        )
    match settings.plot:
        case "nfe":
            figure = plot_nfe(grid, settings.cells)
        case "gamma":
            figure = plot_gamma(grid, settings.cells)
        case "training":
            figure = plot_training(grid, settings.models)
    if not figure:
        place = settings.models if settings.plot == "training" else settings.cells
        raise UserError(f"{place}: nothing of grid {grid.name} to plot yet")
    save(figure, settings.output, "png", "svg")


if __name__ == "__main__":
    main()
