"""Bring trainings and the results of a grid to wandb: sync, dashboard.

    psld wandb sync grid_name=demo                         # upload what the server lacks
    psld wandb dashboard grid_name=demo wandb.entity=me    # create or update the grid's report

Both need a login (`wandb login`, or WANDB_API_KEY).
"""

from pathlib import Path
from typing import Literal, get_args

from psld.commands.entry import entry_point
from psld.grid.loading import GridCommandSettings, load_grid
from psld.training.settings import WandbSettings
from psld.utils.errors import UserError

Verb = Literal["sync", "dashboard"]


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
    grid = load_grid(settings.grid_name)
    if settings.verb == "sync":
        from psld.report.result_runs import result_runs
        from psld.report.sync import sync

        results = result_runs(grid, settings.cells, settings.samples, settings.figures)
        sync(settings.runs, results, grid.name, settings.wandb)
    else:
        from psld.report.dashboard import update_dashboard

        print(update_dashboard(grid, settings.models, settings.wandb))
