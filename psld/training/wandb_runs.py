"""Starting a run of wandb, and how far the earlier lives of one got."""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import wandb

from psld.training.settings import WandbSettings
from psld.utils.errors import RunError, UserError
from psld.utils.files import write_text


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


def training_id(run_folder: Path) -> str:
    """The id of a training's run: made at its first start, the same in each of its lives.

    A training that begins again in a new run directory has another, and another run.
    """
    known = known_training_id(run_folder)
    if known is None:
        known = f"{run_folder.name}-{secrets.token_hex(3)}"
        write_text(run_folder / "wandb-id", f"{known}\n")
    return known


def known_training_id(run_folder: Path) -> str | None:
    """The same; None where the training has never begun here."""
    file = run_folder / "wandb-id"
    return file.read_text().strip() if file.exists() else None


def last_logged_step(folder: Path) -> int | None:
    """The last step that earlier lives of the run in `folder` left on disk; None without files.

    It can lie before what they told wandb, which writes every 15 seconds: a life that was killed
    left less, and perhaps nothing (0).
    """
    files = list(folder.glob("wandb/*run-*/run-*.wandb"))
    return max((step for file in files for step in _steps_in(file)), default=0) if files else None


def _steps_in(file: Path) -> Iterator[int]:
    for record in records_in(file):
        if record["type"] == "history":
            yield record["history"]["step"]["num"]


def records_in(file: Path) -> list[dict[str, Any]]:
    """The records in a file of wandb's, as far as they are whole: a killed life's breaks off.

    There are none where a kill or a power cut came before wandb had written. Raises RunError for a
    file that wandb cannot read.
    """
    inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    done = subprocess.run(inspect, capture_output=True, text=True, check=False)
    if "bad header" in done.stderr:
        return []
    if done.returncode != 0:
        raise RunError(
            f"{file}: wandb cannot read it ({_last_line(done.stderr)}); move {file.parent} away to "
            "go on without what it holds"
        )
    return [json.loads(line) for line in done.stdout.splitlines()]


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it does not say why"])[-1]
