"""Track: write the results of a grid to wandb, each once.

    psld track grid_name=demo

One run for the sampling of each cell, one for each evaluation, one for each table, one with all
pictures. What has been written with the same content is not written again, and a result that was
made anew replaces its run. What was written offline is written again once wandb is online, not the
other way round. Trainings write their own.
"""

import shutil
from pathlib import Path
from typing import Any

import wandb

from psld.commands.entry import CONFIGS, entry_point
from psld.utils.files import digest_of, read_json, write_json
from psld.grid.loading import load_grid
from psld.config.settings import Settings
from psld.report.tracking import TrackedRun, runs_of
from psld.training.wandb_runs import start_run
from psld.training.settings import WandbSettings


class TrackSettings(Settings):
    """Settings of `psld track`."""

    grid_name: str
    """Name of the grid, configs/grid/NAME.yaml; groups runs in wandb."""
    cells: Path
    """Folder of the grid's metrics files."""
    samples: Path
    """Folder of its shards."""
    figures: Path
    """Folder of its pictures."""
    output: Path
    """Folder that receives the runs, and the record of what was written."""
    wandb: WandbSettings


@entry_point("track", TrackSettings)
def main(settings: TrackSettings) -> None:
    if settings.wandb.mode == "disabled":
        print("wandb.mode is disabled: nothing is written")
        return
    grid = load_grid(settings.grid_name, CONFIGS)
    record = settings.output / "written.json"
    written: dict[str, dict[str, Any]] = read_json(record) if record.exists() else {}
    online = settings.wandb.mode == "online"
    fresh = total = 0
    for run in runs_of(grid, settings.cells, settings.samples, settings.figures):
        total += 1
        digest = digest_of([settings.wandb.project, settings.wandb.entity, run.digest])
        wanted = {"digest": digest, "online": online}
        if written.get(run.id) not in (wanted, wanted | {"online": True}):
            write_run(run, settings)
            written[run.id] = wanted
            write_json(record, written)
            fresh += 1
    wandb.teardown()  # a run that is finished may not be written yet
    print(f"{grid.name}: {total} runs, of which {fresh} are new or changed, in {settings.output}")


def write_run(run: TrackedRun, settings: TrackSettings) -> None:
    """Write a run in the place of an older one of the same result."""
    for older in settings.output.glob(f"wandb/*run-*-{run.id}"):
        shutil.rmtree(older)
    with start_run(
        settings.wandb,
        settings.output,
        id=run.id,
        name=run.name,
        group=settings.grid_name,
        job_type=run.job_type,
        config=run.config,
        tags=run.tags,
        # It lasts a moment and prints nothing.
        settings=wandb.Settings(x_disable_stats=True, console="off"),
    ) as started:
        pictures = {name: wandb.Image(picture) for name, picture in run.pictures.items()}
        tables = {
            name: wandb.Table(table.columns, table.rows, allow_mixed_types=True)
            for name, table in run.tables.items()
        }
        started.log({**run.values, **pictures, **tables})


if __name__ == "__main__":
    main()
