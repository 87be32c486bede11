"""Tabulate: one table of a grid as Markdown, CSV, LaTeX and HTML.

python -m psld.tabulate grid_name=demo table=demo-steps
"""

from pathlib import Path

from pydantic import Field

from psld.cli import CONFIGS, entry_point
from psld.errors import UserError
from psld.files import write_text
from psld.grid import load_grid
from psld.results import read_table
from psld.settings import Settings
from psld.tables.formats import as_csv, html, latex, markdown
from psld.tables.text import text_of


class TabulateSettings(Settings):
    """Settings of `python -m psld.tabulate`."""

    grid_name: str
    """Name of the grid, configs/grid/NAME.yaml."""
    table: str
    """Name of one of its tables."""
    cells: Path
    """Folder of the grid's metrics files."""
    output: str = Field(pattern=r"[^/]$")
    """Path of the table without its ending."""


@entry_point("tabulate", TabulateSettings)
def main(settings: TabulateSettings) -> None:
    grid = load_grid(settings.grid_name, CONFIGS)
    if settings.table not in grid.file.tables:
        raise UserError(
            f"table: {settings.table!r} is not in grid {settings.grid_name}; "
            f"there are: {', '.join(grid.file.tables)}"
        )
    table = grid.file.tables[settings.table]
    rows = read_table(grid, settings.table, settings.cells)
    text = text_of(table, rows)
    write_text(f"{settings.output}.csv", as_csv(grid, table, rows))
    write_text(f"{settings.output}.md", markdown(text))
    write_text(f"{settings.output}.tex", latex(text))
    write_text(f"{settings.output}.html", html(text))


if __name__ == "__main__":
    main()
