"""Tabulate a grid: one table as Markdown, CSV, LaTeX and HTML, or all tables on the terminal.

    psld tabulate grid_name=demo                    # print all tables
    psld tabulate grid_name=demo table=demo-steps   # write one

Cells that have not been run are shown as –.
"""

from pathlib import Path

from pydantic import Field

from psld.commands.entry import entry_point
from psld.grid.entries import read_table
from psld.grid.loading import GridCommandSettings, load_grid
from psld.grid.resolved import Grid
from psld.report.formats import as_csv, latex, markdown
from psld.report.html import table_page
from psld.report.table import summary, text_of
from psld.utils.errors import UserError
from psld.utils.files import write_text


class TabulateSettings(GridCommandSettings):
    """Settings of `psld tabulate`."""

    table: str | None
    """Name of the table to write; null: print all tables."""
    output: str = Field(pattern=r"[^/]$")
    """Path of the table without extension."""


@entry_point("tabulate", TabulateSettings)
def main(settings: TabulateSettings) -> None:
    grid = load_grid(settings.grid_name)
    if settings.table is None:
        print_tables(grid, settings.cells)
        return
    if settings.table not in grid.file.tables:
        raise UserError(
            f"table: {settings.table!r} is not in grid {settings.grid_name}; "
            f"there are: {', '.join(grid.file.tables)}"
        )
    table = grid.file.tables[settings.table]
    rows = read_table(grid, settings.table, settings.cells)
    text, output = text_of(table, rows), settings.output
    write_text(f"{output}.csv", as_csv(grid, table, rows))
    write_text(f"{output}.md", markdown(text))
    write_text(f"{output}.tex", latex(text))
    write_text(f"{output}.html", table_page(text))
    print(f"wrote {output}.csv, {output}.md, {output}.tex and {output}.html")


def print_tables(grid: Grid, cells: Path) -> None:
    """Print every table and a summary of their entries."""
    tables = {name: read_table(grid, name, cells) for name in grid.file.tables}
    texts = [text_of(grid.file.tables[name], rows) for name, rows in tables.items()]
    for text in [*texts, summary(grid, tables)]:
        print(markdown(text, details=False))
