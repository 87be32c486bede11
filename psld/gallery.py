"""Gallery: the first images of a shard as one picture.

python -m psld.gallery shard=samples/demo/cld/em-quadratic-40/00000.h5 title=CLD output=cld.png
"""

import matplotlib
import torch
from pydantic import Field
from torchvision.utils import make_grid

from psld.cli import entry_point
from psld.files import atomic_path
from psld.samplers.shards import Shard
from psld.settings import Settings

matplotlib.use("Agg")

from matplotlib import pyplot as plt

INCHES = 8


class GallerySettings(Settings):
    """Settings of `python -m psld.gallery`."""

    shard: str
    """A shard, HDF5."""
    title: str
    output: str = Field(pattern=r"\.png$")
    """The picture."""
    rows: int = Field(ge=1)
    columns: int = Field(ge=1)


@entry_point("gallery", GallerySettings)
def main(settings: GallerySettings) -> None:
    images = Shard.load(settings.shard).images[: settings.rows * settings.columns]
    grid = make_grid(torch.from_numpy(images), nrow=settings.columns, padding=1, pad_value=255)
    height, width = grid.shape[1:]
    figure, axes = plt.subplots(figsize=(INCHES, INCHES * height / width + 0.4))
    # Nearest neighbour: a reader should see the pixels that were sampled.
    axes.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest")
    axes.set_title(settings.title)
    axes.axis("off")
    with atomic_path(settings.output) as partial:
        figure.savefig(partial, format="png", dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    main()
