"""Draw a figure of a grid, or the images of a shard.

    psld figure grid_name=demo figure=nfe              # distance against network evaluations
    psld figure grid_name=demo figure=samplers/cld     # the samplers of one model, side by side
    psld figure shard=samples/demo/cld/em-quadratic-40/00000.safetensors output=cld

`psld plan grid_name=demo list=figures` lists a grid's figures. Writes OUTPUT.png and OUTPUT.svg.
"""

from pathlib import Path
from typing import Literal

from pydantic import model_validator

from psld.commands.entry import entry_point
from psld.config.settings import Settings
from psld.grid import paths
from psld.grid.cache import load_grid


class FigureSettings(Settings):
    """Settings of `psld figure`; give one of `figure` and `shard`."""

    grid_name: str = "demo"
    """Name of the grid, configs/grid/NAME.yaml."""
    figure: str | None = None
    """Name of a figure of the grid."""
    shard: str | None = None
    """Path of a shard; its first images are drawn."""
    output: str | None = None
    """Path without extension; null: results/figures/GRID/FIGURE, for a figure of the grid."""
    data: str | None = None
    """For a shard of inpainted images: path of the prepared dataset."""
    split: Literal["train", "test"] = "test"
    """For a shard: the split that was inpainted."""
    device: str = "auto"
    """`auto`, or a torch device such as `cpu` or `cuda`: for a path through phase space."""

    @model_validator(mode="after")
    def _draws_one_thing(self) -> "FigureSettings":
        if (self.figure is None) == (self.shard is None):
            raise ValueError("give one of figure=NAME and shard=FILE")
        if self.figure is None and self.output is None:
            raise ValueError("output: say where the figure goes, without its ending")
        return self


@entry_point("figure", FigureSettings, has_config=False)
def main(settings: FigureSettings) -> None:
    # matplotlib takes a second to import, so the settings are checked first.
    from psld.report.figures import draw_figure, draw_shard
    from psld.report.style import save

    if settings.figure is not None:
        figure = draw_figure(load_grid(settings.grid_name), settings.figure, settings.device)
    else:
        figure = draw_shard(Path(settings.shard), settings.shard, settings.data, settings.split)
    save(figure, settings.output or paths.figure(settings.grid_name, settings.figure))
