"""Write the results of a grid to wandb as runs, each once.

A changed result replaces its run. Runs written offline are written again once wandb is online.
Trainings write their own runs.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import wandb

from psld.report.tracking import TrackedRun
from psld.training.settings import WandbSettings
from psld.training.wandb_runs import start_run
from psld.utils.files import digest_of, read_json, write_json


def track(runs: Iterable[TrackedRun], group: str, settings: WandbSettings, folder: Path) -> None:
    """Write the new and changed runs into `folder`, and a record of what was written."""
    record = folder / "written.json"
    written: dict[str, dict[str, Any]] = read_json(record) if record.exists() else {}
    online = settings.mode == "online"
    fresh = total = 0
    for run in runs:
        total += 1
        digest = digest_of([settings.project, settings.entity, run.digest])
        wanted = {"digest": digest, "online": online}
        if written.get(run.id) not in (wanted, {"digest": digest, "online": True}):
            write_run(run, group, settings, folder)
            written[run.id] = wanted
            write_json(record, written)
            fresh += 1
    wandb.teardown()  # waits until all finished runs are written
    print(f"{group}: {total} runs, of which {fresh} are new or changed, in {folder}")


def write_run(run: TrackedRun, group: str, settings: WandbSettings, folder: Path) -> None:
    """Write a run, and remove older runs of the same result."""
    for older in folder.glob(f"wandb/*run-*-{run.id}"):
        shutil.rmtree(older)
    with start_run(
        settings,
        folder,
        id=run.id,
        name=run.name,
        group=group,
        job_type=run.job_type,
        config=run.config,
        tags=run.tags,
        settings=wandb.Settings(x_disable_stats=True, console="off"),
    ) as started:
        images = {n: wandb.Image(image) for n, image in run.images.items()}
        tables = {n: wandb.Table(*t, allow_mixed_types=True) for n, t in run.tables.items()}
        started.log({**run.values, **images, **tables})
