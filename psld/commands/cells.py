"""List the cells of a grid, each of which is a target of Snakemake.

psld cells grid_name=demo
"""

from psld.commands.entry import CONFIGS, entry_point
from psld.grid.loading import load_grid
from psld.config.settings import Settings


class CellsSettings(Settings):
    """Settings of `psld cells`."""

    grid_name: str
    """Name of the grid, configs/grid/NAME.yaml."""


@entry_point("cells", CellsSettings)
def main(settings: CellsSettings) -> None:
    grid = load_grid(settings.grid_name, CONFIGS)
    for cell in grid.cells:
        print(f"{grid.name}/{cell}")


if __name__ == "__main__":
    main()
