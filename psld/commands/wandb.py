"""Bring trainings and the results of a grid to wandb: sync, dashboard.

    psld wandb sync                                        # upload the trainings
    psld wandb sync grid_name=demo                         # upload the results of a grid too
    psld wandb dashboard grid_name=demo wandb.entity=me    # create or update the grid's report

Both need a login (`wandb login`, or WANDB_API_KEY).
"""

from pathlib import Path
from typing import Literal

from psld.commands.entry import entry_point
from psld.config.settings import Settings
from psld.grid.cache import load_grid
from psld.training.settings import WandbSettings
from psld.utils.errors import UserError

Verb = Literal["sync", "dashboard"]


class WandbCommandSettings(Settings):
    """Settings of `psld wandb`."""

    verb: Verb
    """The first word of the command line."""
    grid_name: str | None
    """Name of the grid, configs/grid/NAME.yaml; sync needs none to upload trainings."""
    runs: Path
    """Folder of run directories; sync uploads the trainings of all grids."""
    wandb: WandbSettings


@entry_point("wandb", WandbCommandSettings, bare="verb")
def main(settings: WandbCommandSettings) -> None:
    # wandb takes a second to import, so each verb imports only what it needs.
    grid = load_grid(settings.grid_name) if settings.grid_name else None
    if settings.verb == "sync":
        from psld.report.sync import sync

        sync(settings.runs, grid, settings.wandb)
    else:
        from psld.report.dashboard import update_dashboard

        if grid is None:
            raise UserError("psld wandb dashboard: which grid? add grid_name=NAME")
        print(update_dashboard(grid, settings.wandb))
