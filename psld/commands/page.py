"""Write the page of a grid's results, one HTML file for reading.

    psld page grid_name=demo        # results/demo.html

It lists what has not been run, too.
"""

from psld.commands.entry import entry_point
from psld.config.settings import Settings
from psld.grid import paths
from psld.grid.cache import load_grid
from psld.report.page import results_page
from psld.utils.files import write_text


class PageSettings(Settings):
    """Settings of `psld page`."""

    grid_name: str = "demo"
    """Name of the grid, configs/grid/NAME.yaml."""
    output: str | None = None
    """Path of the page; null: results/GRID.html."""


@entry_point("page", PageSettings, has_config=False)
def main(settings: PageSettings) -> None:
    grid = load_grid(settings.grid_name)
    output = settings.output or paths.page(grid.name)
    write_text(output, results_page(grid))
    print(f"Page: {output}")
