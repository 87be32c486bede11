"""Starts of trainings, as wandb writes them offline."""

import os
import time
from collections.abc import Iterable
from pathlib import Path
from unittest import mock

from psld.training.settings import WandbSettings
from psld.training.wandb_runs import records_in, start_run


def live(run: Path, steps: Iterable[int], begun: int = 0, run_id: str | None = None) -> Path:
    """Start the training in `run` again after so many seconds and return the file it writes."""
    with (
        mock.patch.dict(os.environ),  # wandb names its service to later processes
        start_run(
            WandbSettings(),
            run,
            id=run_id or run.name,
            resume="allow",
            stats=False,
        ) as started,
    ):
        for step in steps:
            started.log({"loss": 1 / step}, step=step)
    [written] = [
        folder for folder in run.glob("wandb/offline-run-*") if "20000101" not in str(folder)
    ]
    folder = written.rename(
        written.parent / f"offline-run-20000101_0000{begun:02}-{run_id or run.name}"
    )
    file = next(folder.glob("run-*.wandb"))
    deadline = time.monotonic() + 60
    while not any(record["type"] == "exit" for record in records_in(file)):
        # wandb returns before the file is complete.
        assert time.monotonic() < deadline, f"{file}: without an end"
        time.sleep(0.1)
    return file


def break_off(file: Path) -> None:
    """Cut the file within the last step, like a kill or a power cut."""
    content = file.read_bytes()
    file.write_bytes(content[: content.rindex(b"loss")])


def damage(file: Path) -> None:
    """Fill the file with zeros from the last step on, like a power cut."""
    content = file.read_bytes()
    end = content.rindex(b"loss")
    file.write_bytes(content[:end] + bytes(len(content) - end))
