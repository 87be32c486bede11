"""Commands that create a project folder and prepare datasets."""

import os
import shutil
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten

from psld.commands.main import entry_point
from psld.config.locations import SHIPPED
from psld.config.settings import Settings
from psld.data.preparation import prepare_dataset
from psld.data.settings import PrepareSettings
from psld.grid.cache import load_grid
from psld.utils.errors import UserError
from psld.utils.files import write_text
from psld.utils.progress import about

MINUTES = 8
"""Intended training time of the example grid on one core, in minutes."""

FEWEST, MOST = 2000, 5000
"""Smallest and largest number of training steps of the example grid."""


class InitSettings(Settings):
    folder: Path
    """Path of the new folder."""
    part: bool = False
    """Also write a custom network, mynet.py, and its config, configs/network/plain.yaml."""
    latents: bool = False
    """Instead of the example grid, write an autoencoder and a grid that compares diffusion in its
    latents with diffusion in pixels."""


@entry_point("init", InitSettings, positionals=("folder",), has_config=False)
def init(settings: InitSettings) -> None:
    """Create a project folder: Snakefile, profiles, an example grid and a README.

        psld init mine
        psld init mine part=true
        psld init mine latents=true

    The folder must be new or empty. The rules and all other configs stay in the package. The
    command measures the speed of this machine, and sets the number of training steps in the grid so
    that the training takes a few minutes.
    """
    folder = settings.folder.resolve()  # `resolve` also works for new/.. if new does not exist.
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder}: exists and is not an empty folder; choose a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".psld-", dir=folder) as temporary, chdir(temporary):
        shutil.copytree(SHIPPED / "workflow/project", "new")
        shutil.copytree(SHIPPED / "profiles", "new/profiles")
        if settings.part:
            shutil.copytree(SHIPPED / "workflow/part", "new", dirs_exist_ok=True)
        os.chdir("new")
        said = _with_latents() if settings.latents else _with_steps()
        for each in Path().iterdir():
            each.rename(folder / each.name)
    print(said)
    print(f"next: {settings.folder}/README.md lists the next steps")


def _with_latents() -> str:
    """Replace the example grid by an autoencoder and a grid of latents."""
    shutil.copytree(SHIPPED / "workflow/latents", ".", dirs_exist_ok=True)
    Path("configs/grid/mine.yaml").unlink()
    rules = Path("Snakefile").read_text("utf-8")
    rules = rules.replace("denoiser/few-4", "latents-psld/em-quadratic-40")
    write_text(
        "Snakefile", rules.replace("mine-steps", "latents-values").replace("mine", "latents")
    )
    return (
        "autoencoder.py makes latents of your pictures; configs/grid/latents.yaml compares models"
    )


def _with_steps() -> str:
    """Set the training steps of the example grid to what takes a few minutes on one core."""
    from psld.models.build import seconds_per_image  # imports torch

    trained = load_grid("mine").models["denoiser"].settings
    step = trained.training.batch_size * seconds_per_image(trained)
    steps = min(max(100 * int(60 * MINUTES / step / 100), FEWEST), MOST)
    grid = Path("configs/grid/mine.yaml")
    changed = f"training.steps={trained.training.steps}", f"training.steps={steps}"
    write_text(grid, grid.read_text("utf-8").replace(*changed))
    time = about(steps * step)
    return f"{steps:,} training steps take {time} on one core here, at 16×16 ({grid})"


@entry_point("prepare", PrepareSettings, record="dataset")
def prepare(settings: PrepareSettings) -> None:
    """Prepare a dataset: find or download its source, decode and resize it, write one HDF5 file.

        psld prepare dataset=digits
        psld prepare dataset=celeba64 dataset.source.root=~/celeba
        psld prepare dataset=mine replace=true   # include pictures added since the last time

    Settings: configs/prepare.yaml.
    """
    record = prepare_dataset(settings.dataset, Path(settings.output), settings.replace)
    count, channels, height, width = record["shape"]
    print(
        f"{settings.output}: {count:,} images of {channels}×{height}×{width} "
        f"({record['splits']['train']:,} train, {record['splits']['test']:,} test), "
        f"digest {record['digest'][:12]}"
    )
    if converted := record["converted"]:
        print("; ".join(f"{count:,} × {what}" for what, count in converted.items()))
    if settings.dataset.num_classes:
        classes = ", ".join(f"{i} {name}" for i, name in enumerate(record["class_names"]))
        print(f"classes: {shorten(classes, 1000, placeholder=' …')}")
    elif found := len(record["class_names"]):
        print(f"its {found} classes are not used; dataset.num_classes={found} uses them")
