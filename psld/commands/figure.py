"""Draw a figure of a grid.

    psld figure grid_name=demo figure=nfe              # distance against network evaluations
    psld figure grid_name=demo figure=samplers/cld     # the samplers of one model, side by side

`psld plan grid_name=demo list=figures` lists a grid's figures. Writes OUTPUT.png and OUTPUT.svg.
"""

from pathlib import Path

from psld.commands.entry import entry_point
from psld.config.settings import Settings
from psld.grid import paths
from psld.grid.cache import load_grid
from psld.utils.errors import UserError


class FigureSettings(Settings):
    """Settings of `psld figure`."""

    grid_name: str = "demo"
    """Name of the grid, configs/grid/NAME.yaml."""
    figure: str
    """Name of a figure of the grid."""
    output: str | None = None
    """Path without extension; null: results/figures/GRID/FIGURE."""
    device: str = "auto"
    """`auto`, or a torch device such as `cpu` or `cuda`: for a path through phase space."""


@entry_point("figure", FigureSettings, has_config=False)
def main(settings: FigureSettings) -> None:
    if settings.output and (settings.output.endswith("/") or Path(settings.output).is_dir()):
        raise UserError(f"output: {settings.output} is a folder; give a path without extension")
    # matplotlib takes a second to import, so the settings are checked first.
    from psld.report.figures import draw_figure
    from psld.report.style import save

    figure = draw_figure(load_grid(settings.grid_name), settings.figure, settings.device)
    save(figure, settings.output or paths.figure(settings.grid_name, settings.figure))
