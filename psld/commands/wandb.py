"""Bring the results of a grid to wandb: track, sync, dashboard.

    psld wandb track grid_name=demo                        # write the results as runs
    psld wandb sync grid_name=demo                         # upload the offline runs
    psld wandb dashboard grid_name=demo wandb.entity=me    # create or update the grid's report

Sync and dashboard need a login (`wandb login`, or WANDB_API_KEY).
"""

from pathlib import Path
from typing import Literal, get_args

from psld.commands.entry import entry_point
from psld.grid.loading import GridCommandSettings, load_grid
from psld.training.settings import WandbSettings
from psld.utils.errors import UserError

Verb = Literal["track", "sync", "dashboard"]


class WandbCommandSettings(GridCommandSettings):
    """Settings of `psld wandb`."""

    verb: Verb
    """The first word of the command line."""
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


def name_the_verb(arguments: list[str]) -> list[str]:
    """Turn the leading word into the override `verb=WORD`. Raises UserError without a verb."""
    verb, *others = arguments or [""]
    if verb in get_args(Verb):
        return [f"verb={verb}", *others]
    if any(argument.startswith(("verb=", "--cfg", "--help", "-h")) for argument in arguments):
        return arguments
    raise UserError(f"psld wandb: begin with one of {', '.join(get_args(Verb))}, not {verb!r}")


@entry_point("wandb", WandbCommandSettings, rewrite=name_the_verb)
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
