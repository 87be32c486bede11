"""Start a run of wandb, and read from its files how far an earlier process got."""

import json
import os
import secrets
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import wandb
from wandb.util import get_core_path

from psld.training.settings import WandbSettings
from psld.utils.errors import RunError, UserError
from psld.utils.files import write_text

ENVIRONMENT = {"WANDB_SILENT": "true", "WANDB_INIT_TIMEOUT": "20", "WANDB_FINISH_TIMEOUT": "20"}
"""The times, in seconds, that a run waits for the server at its start and at its end."""


def check_login(settings: WandbSettings) -> None:
    """Raise UserError if runs go online and nobody is logged in. The server is not asked."""
    set_environment()
    if settings.mode == "online":
        with errors_in_one_line():
            wandb.login(verify=False)


def set_environment() -> None:
    """Set what the user has not set. wandb reads it once."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def start_run(
    settings: WandbSettings, folder: Path, /, *, stats: bool = True, **options: Any
) -> wandb.Run:
    """Start a run with its files in `folder`/wandb; wandb.init gets the options.

    `stats`: log system metrics too.

    The run raises TimeoutError if its end is not uploaded in time. Nothing of it intercepts what
    the process prints, which would be another way to wait for wandb.
    """
    set_environment()
    folder.mkdir(parents=True, exist_ok=True)
    with errors_in_one_line():
        return wandb.init(
            project=settings.project,
            entity=settings.entity,
            mode=settings.mode,
            dir=folder.absolute(),  # wandb's process may have another working directory
            settings=wandb.Settings(
                console="off", finish_timeout_raises=True, x_disable_stats=not stats
            ),
            **options,
        )


def kill_service() -> None:
    """Kill the process of wandb that this one started: Python would wait for it at its exit."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            number, name, _, parent, *_ = file.read_text().split()
            if (name, parent) == ("(wandb-core)", str(os.getpid())):
                os.kill(int(number), signal.SIGKILL)


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Turn wandb's errors into UserError if nobody is logged in, else into RunError."""
    try:
        yield
    except wandb.errors.UsageError as error:
        raise UserError(f"wandb: {error}") from None
    except (wandb.errors.Error, ConnectionError, TimeoutError) as error:
        raise RunError(f"wandb: {' '.join(str(error).split())}") from None


def training_id(run_folder: Path) -> str:
    """The id of a training's run: made at its first start, and kept in the run directory."""
    known = known_training_id(run_folder)
    if known is None:
        known = f"{run_folder.name}-{secrets.token_hex(3)}"
        write_text(run_folder / "wandb-id", f"{known}\n")
    return known


def known_training_id(run_folder: Path) -> str | None:
    """The id of a training's run; None if the training has not started here."""
    file = run_folder / "wandb-id"
    return file.read_text().strip() if file.exists() else None


def last_logged_step(folder: Path) -> int | None:
    """The last logged step in the files in `folder`; None without files.

    wandb writes every 15 seconds, so a killed process may have logged more than its file holds;
    if the file is empty, the result is 0.
    """
    files = list(folder.glob("wandb/*run-*/run-*.wandb"))
    steps = (
        record["history"]["step"]["num"]
        for file in files
        for record in records_in(file)
        if record["type"] == "history"
    )
    return max(steps, default=0) if files else None


def records_in(file: Path) -> list[dict[str, Any]]:
    """The whole records in a file of wandb's. After a kill, the end is missing, perhaps everything.

    Raises RunError if wandb cannot read the file.
    """
    # As `wandb leet inspect --json`, which would also contact the server.
    inspect = [get_core_path(), "leet", "inspect", "--no-observability", "--json"]
    where = ["--run-file", str(file), str(file.parent)]
    done = subprocess.run(
        inspect + where, capture_output=True, text=True, errors="replace", check=False
    )
    if "bad header" in done.stderr:
        return []
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise RunError(
            f"{file}: wandb cannot read it ({reason}); move {file.parent} away to go on without it"
        )
    return [json.loads(line) for line in done.stdout.splitlines()]
