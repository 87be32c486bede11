"""Starting a run of wandb, and how far the earlier lives of one got."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import wandb

from psld.errors import RunError, UserError
from psld.tracking.settings import WandbSettings


def start_run(settings: WandbSettings, folder: Path, /, **given: Any) -> wandb.Run:
    """A run whose files lie in `folder`/wandb; `given` goes to wandb.init."""
    os.environ.setdefault("WANDB_SILENT", "true")
    folder.mkdir(parents=True, exist_ok=True)
    with errors_in_one_line():
        return wandb.init(
            project=settings.project,
            entity=settings.entity,
            mode=settings.mode,
            dir=folder.absolute(),  # the process that writes need not stand where we do
            **given,
        )


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Within, an error of wandb's is a UserError where nobody is logged in, else a RunError."""
    try:
        yield
    except wandb.errors.UsageError as error:
        raise UserError(f"wandb: {error}") from None
    except wandb.errors.Error as error:
        raise RunError(f"wandb: {error}") from None


def last_logged_step(folder: Path) -> int | None:
    """The last step that earlier lives of the run in `folder` left on disk; None without files.

    It can lie before what they told wandb, which writes every 15 seconds: a life that was killed
    left less, and perhaps nothing (0).
    """
    files = list(folder.glob("wandb/*run-*/run-*.wandb"))
    return max((step for file in files for step in _steps_in(file)), default=0) if files else None


def _steps_in(file: Path) -> Iterator[int]:
    """The steps in a file of wandb's, as far as it can be read: a killed run's breaks off."""
    inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    listed = subprocess.run(inspect, capture_output=True, text=True, check=False).stdout
    for record in map(json.loads, listed.splitlines()):
        if record["type"] == "history":
            yield record["history"]["step"]["num"]
