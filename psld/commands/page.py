"""Write the page of a grid's results, one HTML file for reading.

    psld page grid_name=demo        # results/demo.html

It lists what has not been run, too.
"""

from pathlib import Path

from psld.commands.entry import entry_point
from psld.grid.loading import GridCommandSettings, load_grid
from psld.report.page import results_page
from psld.utils.files import write_text


class PageSettings(GridCommandSettings):
    """Settings of `psld page`."""

    figures: Path
    """Folder of the grid's figures; those that are not drawn yet are left out."""
    output: str
    """Path of the page."""


@entry_point("page", PageSettings)
def main(settings: PageSettings) -> None:
    grid = load_grid(settings.grid_name)
    write_text(settings.output, results_page(grid, settings.cells, settings.figures))
    print(f"Page: {settings.output}")
