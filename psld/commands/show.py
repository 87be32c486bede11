"""Show: the tables of a grid on the terminal, as far as its cells have been run, and their sum.

psld show grid_name=paper
"""

from pathlib import Path

from psld.commands.entry import CONFIGS, entry_point
from psld.grid.loading import load_grid
from psld.grid.results import read_table
from psld.config.settings import Settings
from psld.report.formats import markdown
from psld.report.table import summary, text_of


class ShowSettings(Settings):
    """Settings of `psld show`."""

    grid_name: str
    """Name of the grid, configs/grid/NAME.yaml."""
    cells: Path
    """Folder of the grid's metrics files."""


@entry_point("show", ShowSettings)
def main(settings: ShowSettings) -> None:
    grid = load_grid(settings.grid_name, CONFIGS)
    tables = {name: read_table(grid, name, settings.cells) for name in grid.file.tables}
    texts = [text_of(grid.file.tables[name], rows) for name, rows in tables.items()]
    for text in [*texts, summary(grid, tables)]:
        print(markdown(text, details=False))


if __name__ == "__main__":
    main()
