"""Sheet: the same samples of several cells below each other, to be compared by eye.

psld sheet grid_name=demo sheet=models/digits    # the models, by the gallery's sampler
psld sheet grid_name=demo sheet=samplers/cld     # the samplers of one model
"""

from pathlib import Path

from pydantic import Field

from psld.commands.entry import CONFIGS, entry_point
from psld.utils.errors import UserError
from psld.grid.figures import sheets_of
from psld.report.images import draw_images, full_row
from psld.report.style import save
from psld.grid.loading import Grid, load_grid
from psld.sampling.shards import Shard, shard_path
from psld.config.settings import Settings


class SheetSettings(Settings):
    """Settings of `psld sheet`."""

    grid_name: str
    """Name of the grid, configs/grid/NAME.yaml."""
    sheet: str
    """models/DATASET or samplers/MODEL."""
    samples: Path
    """Folder of the grid's shards."""
    columns: int = Field(ge=1)
    """The first samples of each cell, one a column."""
    output: str
    """Path of the picture without its ending: a PNG."""


@entry_point("sheet", SheetSettings)
def main(settings: SheetSettings) -> None:
    grid = load_grid(settings.grid_name, CONFIGS)
    sheets = sheets_of(grid)
    if settings.sheet not in sheets:
        raise UserError(
            f"sheet: {settings.sheet!r} is not of grid {grid.name}; "
            f"there are: {', '.join(sheets) or 'none'}"
        )
    shards = {
        name: Shard.load(path)
        for name, cell in sheets[settings.sheet].items()
        if (path := shard_path(settings.samples / cell, 0)).exists()
    }
    if not shards:
        raise UserError(f"{settings.samples}: no samples of sheet {settings.sheet} yet")
    columns = min(settings.columns, max(len(shard.images) for shard in shards.values()))
    rows = [full_row(shard.images, columns) for shard in shards.values()]
    figure = draw_images(rows, title_of(grid, settings.sheet), list(shards))
    save(figure, settings.output, "png")


def title_of(grid: Grid, sheet: str) -> str:
    rows, _, name = sheet.partition("/")
    return f"{name} by {grid.file.gallery}" if rows == "models" else f"{name}, by sampler"


if __name__ == "__main__":
    main()
