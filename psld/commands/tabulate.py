"""Tabulate: one table of a grid as Markdown, CSV, LaTeX and HTML.

psld tabulate grid_name=demo table=demo-steps
"""

from pathlib import Path

from pydantic import Field

from psld.commands.entry import CONFIGS, entry_point
from psld.utils.errors import UserError
from psld.utils.files import write_text
from psld.grid.loading import load_grid
from psld.grid.results import read_table
from psld.config.settings import Settings
from psld.report.formats import as_csv, html, latex, markdown
from psld.report.table import text_of


class TabulateSettings(Settings):
    """Settings of `psld tabulate`."""

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
