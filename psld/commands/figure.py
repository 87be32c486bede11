"""Draw a figure: of a grid, of a shard's images, or of one image's path through phase space.

    psld figure grid_name=demo figure=nfe              # distance against network evaluations
    psld figure grid_name=demo figure=samplers/cld     # the samplers of one model, side by side
    psld figure shard=samples/demo/cld/em-quadratic-40/00000.h5 output=cld
    psld figure model=models/demo/psld-0.02 sampler=em sampler.steps=40 output=path

`psld plan grid_name=demo list=figures` lists a grid's figures. Writes OUTPUT.png and OUTPUT.svg.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from psld.commands.entry import entry_point
from psld.diffusion.samplers import SamplerSettings
from psld.grid import paths
from psld.grid.loading import GridCommandSettings, load_grid


class FigureSettings(GridCommandSettings):
    """Settings of `psld figure`; give exactly one of `figure`, `shard` and `model`."""

    figure: str | None
    """Name of a figure of the grid."""
    shard: str | None
    """Path of a shard, HDF5; its first images are drawn."""
    model: str | None
    """Folder of a model with momentum; one image's path through phase space is drawn."""
    title: str | None
    """Title for a shard or a model; null: its path."""
    output: str | None
    """Path without extension; null: the default path, for a figure of the grid only."""
    models: Path
    """Folder of the grid's models."""
    samples: Path
    """Folder of the grid's shards."""
    rows: int = Field(ge=1)
    """Most rows of images: one per class if guided, three per strip if inpainted."""
    columns: int = Field(ge=1)
    """Images per row."""
    data: str | None
    """Path of the prepared dataset, for a shard of inpainted images."""
    split: Literal["train", "test"]
    """The split that was inpainted."""
    sampler: SamplerSettings
    """For a model: an unguided sampler with a fixed time grid."""
    sample: int = Field(ge=0)
    """For a model: index of the sample in its cell."""
    shard_size: int = Field(ge=1)
    """For a model: images per shard of the cell."""
    seed: int = Field(ge=0)
    """For a model: seed of the cell."""
    times: int = Field(ge=2)
    """For a model: number of columns, one for each state from noise to data."""
    pixels: int = Field(ge=1)
    """For a model: number of pixels to trace through phase space."""
    device: str
    """`auto`, or a torch device such as `cpu` or `cuda`."""

    @model_validator(mode="after")
    def _draws_one_thing(self) -> "FigureSettings":
        given = [key for key in ("figure", "shard", "model") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(
                "give one of figure=NAME, shard=FILE and model=FOLDER, not "
                f"{' and '.join(given) or 'none'}"
            )
        if self.figure is None and self.output is None:
            raise ValueError("output: say where the figure goes, without its ending")
        return self


@entry_point("figure", FigureSettings)
def main(settings: FigureSettings) -> None:
    # matplotlib takes a second to import, so the settings are checked first.
    from psld.report.drawing import Folders, draw_figure, draw_path
    from psld.report.galleries import draw_shard, originals_of
    from psld.report.style import save
    from psld.sampling.shards import read_shard

    if settings.shard is not None:
        path = Path(settings.shard)
        shard = read_shard(path)
        originals = originals_of(shard, path, settings.data, settings.split)
        title = settings.title or str(path)
        figure = draw_shard(shard, title, settings.rows, settings.columns, originals)
    elif settings.model is not None:
        keys = ("device", "shard_size", "seed", "sample", "times", "pixels")
        chosen = {key: getattr(settings, key) for key in keys}
        title = settings.title or settings.model
        figure = draw_path(settings.model, settings.sampler, title, **chosen)
    else:
        grid = load_grid(settings.grid_name)
        folders = Folders(settings.cells, settings.models, settings.samples, settings.data)
        figure = draw_figure(grid, settings.figure, folders, settings.device)
    save(figure, settings.output or paths.figure(settings.grid_name, settings.figure))
