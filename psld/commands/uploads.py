"""Commands that upload models to the Hugging Face Hub, and results to wandb."""

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
    """Repository on the Hub, USER/NAME."""
    license: str = "unknown"
    """License identifier of the Hub, such as mit. The license of the dataset may restrict the
    choice."""
    start: bool = False
    """Also upload the initial distribution (`start`), which contains means and covariances of
    training images. It does not protect the privacy of these images."""


@entry_point("push", PushSettings, positionals=("folder", "repository"), has_config=False)
def push(settings: PushSettings) -> None:
    """Upload a model to the Hugging Face Hub, with a model card of its settings and results.

        psld push models/demo/cld me/digits-cld license=mit     # prints the code that loads it

    Requires the extra `hub` (pip install 'psld[hub]') and a login (`hf auth login` or HF_TOKEN).
    The files are checked before the upload. The model card replaces README.md in the repository.
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
    """`sync` uploads trainings and results; `dashboard` creates or updates the report of a grid."""
    grid_name: str | None
    """Name of the grid, configs/grid/NAME.yaml. Null means that `sync` uploads only trainings."""
    runs: Annotated[Path, FREE]
    """Folder that contains run directories. `sync` uploads all trainings in it, of all grids."""
    wandb: Annotated[WandbSettings, FREE]


@entry_point("wandb", WandbCommandSettings, positionals=("verb",))
def wandb(settings: WandbCommandSettings) -> None:
    """Upload trainings and the results of a grid to wandb.

        psld wandb sync                                        # upload the trainings
        psld wandb sync grid_name=demo                         # also upload the results of a grid
        psld wandb dashboard grid_name=demo wandb.entity=me    # create or update the grid's report

    `sync` and `dashboard` need a login (`wandb login`, or WANDB_API_KEY).
    """
    grid = load_grid(settings.grid_name) if settings.grid_name else None
    if os.environ.get("WANDB_MODE") == "disabled":
        print("nothing is uploaded: WANDB_MODE=disabled")
        return
    from psld.report.sync import sync, update_dashboard

    if settings.verb == "sync":
        sync(settings.runs, grid, settings.wandb)
    elif grid is None:
        raise UserError("psld wandb dashboard: grid_name is missing; add grid_name=NAME")
    else:
        print(update_dashboard(grid, settings.wandb))
