"""Bring the results of a grid to wandb: track, sync, dashboard.

    psld wandb track grid_name=demo                        # write the results as runs
    psld wandb sync grid_name=demo                         # upload the offline runs
    psld wandb dashboard grid_name=demo wandb.entity=me    # create or update the grid's report

Sync and dashboard need a login (`wandb login`, or WANDB_API_KEY).
"""

from pathlib import Path
from typing import Literal

from psld.commands.entry import entry_point
from psld.config.settings import Settings
from psld.grid.cache import load_grid
from psld.training.settings import WandbSettings

Verb = Literal["track", "sync", "dashboard"]


class WandbCommandSettings(Settings):
    """Settings of `psld wandb`."""

    verb: Verb
    """The first word of the command line."""
    grid_name: str
    """Name of the grid, configs/grid/NAME.yaml."""
    samples: Path
    """Folder of its shards."""
    figures: Path
    """Folder of its figures."""
    models: Path
    """Folder of its models."""
    tracked: Path
    """Folder of the runs that track writes."""
    runs: Path
    """Folder of run directories; sync uploads the trainings of all grids."""
    wandb: WandbSettings


@entry_point("wandb", WandbCommandSettings, bare="verb")
def main(settings: WandbCommandSettings) -> None:
    # wandb takes a second to import, so each verb imports only what it needs.
    match settings.verb:
        case "track":
            if settings.wandb.mode == "disabled":
                print("wandb.mode is disabled: nothing is written")
                return
            from psld.report.track import runs_of, track

            grid = load_grid(settings.grid_name)
            runs = runs_of(grid, settings.cells, settings.samples, settings.figures)
            track(runs, grid.name, settings.wandb, settings.tracked)
        case "sync":
            from psld.report.sync import sync

            sync(settings.runs, settings.tracked)
        case "dashboard":
            from psld.report.dashboard import update_dashboard

            print(update_dashboard(load_grid(settings.grid_name), settings.models, settings.wandb))
