"""Show: the tables of a grid on the terminal, as far as its cells have been run, and their sum.

python -m psld.show grid_name=paper
"""

from pathlib import Path

from psld.cli import CONFIGS, entry_point
from psld.grid import load_grid
from psld.results import read_table
from psld.settings import Settings
from psld.tables.formats import markdown
from psld.tables.text import summary, text_of


class ShowSettings(Settings):
    """Settings of `python -m psld.show`."""

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
