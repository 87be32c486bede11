"""Tabulate a grid: one table as Markdown, CSV, LaTeX and HTML, or all tables on the terminal.

    psld tabulate grid_name=demo                    # print all tables
    psld tabulate grid_name=demo table=demo-steps   # write one

Cells that have not been run are shown as –.
"""

from pydantic import Field

from psld.commands.entry import entry_point
from psld.config.settings import Settings
from psld.grid import paths
from psld.grid.cache import load_grid
from psld.report.formats import print_tables, write_table
from psld.utils.errors import UserError


class TabulateSettings(Settings):
    """Settings of `psld tabulate`."""

    grid_name: str = "demo"
    """Name of the grid, configs/grid/NAME.yaml."""
    table: str | None = None
    """Name of the table to write; null: print all tables."""
    output: str | None = Field(None, pattern=r"[^/]$")
    """Path of the table without extension; null: results/tables/GRID/TABLE."""


@entry_point("tabulate", TabulateSettings, has_config=False)
def main(settings: TabulateSettings) -> None:
    grid = load_grid(settings.grid_name)
    if settings.table is None:
        print_tables(grid)
        return
    if settings.table not in grid.file.tables:
        raise UserError(
            f"table: {settings.table!r} is not in grid {settings.grid_name}; "
            f"there are: {', '.join(grid.file.tables)}"
        )
    output = settings.output or paths.table(grid.name, settings.table)
    write_table(grid, settings.table, output)
    print(f"wrote {output}.csv, {output}.md, {output}.tex and {output}.html")
