"""Commands that send models and results to others: to the Hugging Face Hub, and to wandb."""

import os
from pathlib import Path
from typing import Annotated, Literal

from psld.commands.main import entry_point
from psld.config.settings import FREE, Settings
from psld.grid.cache import load_grid
from psld.training.settings import WandbSettings
from psld.utils.errors import UserError


class PushSettings(Settings):
    folder: Path
    """Folder of a trained model."""
    repository: str
    """USER/NAME."""
    license: str = "unknown"
    """License of the weights, in the words of the Hub, such as mit. The dataset may limit it."""
    start: bool = False
    """Upload the start of samplers, too: means and covariances of training images, which are not
    private."""


@entry_point("push", PushSettings, positionals=("folder", "repository"), has_config=False)
def push(settings: PushSettings) -> None:
    """Push a model to the Hugging Face Hub, with a card of its settings and results.

        psld push models/demo/cld me/digits-cld license=mit     # prints the line that loads it

    Needs the extra `hub` (pip install 'psld[hub]') and a login (`hf auth login`, or HF_TOKEN). The
    files are checked first. The card replaces the repository's README.md.
    """
    from psld.library import load
    from psld.models import hub
    from psld.models.manifest import read_manifest
    from psld.report.page import model_card

    model, repository = load(settings.folder, "cpu"), settings.repository
    folder = model.folder
    start = model.start.path if settings.start else None
    card = model_card(read_manifest(folder), repository, settings.license, start)
    print(f'psld.load("hf://{repository}@{hub.push(folder, repository, card, start)}")')


class WandbCommandSettings(Settings):
    verb: Literal["sync", "dashboard"]
    """The first word of the command line."""
    grid_name: str | None
    """Name of the grid, configs/grid/NAME.yaml; sync needs none to upload trainings."""
    runs: Annotated[Path, FREE]
    """Folder of run directories; sync uploads the trainings of all grids."""
    wandb: Annotated[WandbSettings, FREE]


@entry_point("wandb", WandbCommandSettings, positionals=("verb",))
def wandb(settings: WandbCommandSettings) -> None:
    """Bring trainings and the results of a grid to wandb: sync, dashboard.

        psld wandb sync                                        # upload the trainings
        psld wandb sync grid_name=demo                         # upload the results of a grid too
        psld wandb dashboard grid_name=demo wandb.entity=me    # create or update the grid's report

    Both need a login (`wandb login`, or WANDB_API_KEY).
    """
    grid = load_grid(settings.grid_name) if settings.grid_name else None
    if os.environ.get("WANDB_MODE") == "disabled":
        print("nothing is uploaded: WANDB_MODE=disabled")
        return
    from psld.report.sync import sync, update_dashboard

    if settings.verb == "sync":
        sync(settings.runs, grid, settings.wandb)
    elif grid is None:
        raise UserError("psld wandb dashboard: which grid? add grid_name=NAME")
    else:
        print(update_dashboard(grid, settings.wandb))
