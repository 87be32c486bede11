"""Log the history of a training to a run in wandb, during the training or later.

This module is imported only where it is used, because wandb takes a second to import.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, cast

import wandb
from wandb.errors import Error
from wandb.sdk.lib.service.service_connection import WandbApiFailedError
from wandb.sdk.mailbox import MailboxClosedError

from psld.training.files import HISTORY, TrainingHistory, WandbRun, preview_path
from psld.utils.errors import RunError, UserError, one_line
from psld.utils.files import read_json

ENVIRONMENT = {
    "WANDB_SILENT": "true",
    "WANDB_ERROR_REPORTING": "false",  # Reports would print lines and delay the exit.
    "WANDB_INIT_TIMEOUT": "20",  # seconds that a run waits for the server at its start
    "WANDB_FINISH_TIMEOUT": "20",  # seconds that a run waits for the server at its end
}

FAILURES = (
    *(Error, ConnectionError, TimeoutError),
    *(WandbApiFailedError, MailboxClosedError),  # These are not public, but wandb raises them.
)
"""The errors that wandb raises if the server does not answer or if wandb's service process ends."""


def check_login() -> None:
    """Raise UserError if no user is logged in. The check does not contact the server."""
    for name, value in ENVIRONMENT.items():  # Do this before wandb reads the environment.
        os.environ.setdefault(name, value)
    try:
        wandb.login(verify=False)
    except Error as error:
        raise UserError(f"wandb: {error}") from None


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Raise errors of wandb as RunError, for example if the server does not answer."""
    try:
        yield
    except FAILURES as error:
        raise RunError(f"wandb: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    text = one_line(str(error)).removeprefix("wandb: ").removesuffix(".")
    return text or type(error).__name__


@contextmanager
def online_run(*, live: bool = False, **options: Any) -> Iterator[wandb.Run]:
    """Open an online run in wandb, and finish the run at the end. Call `check_login` first.

    wandb writes its local files into a temporary folder.

    Args:
        live: also log the description and the system metrics of this machine.
        options: arguments of `wandb.init`.

    Raises RunError if the server refuses the run, or does not receive all data in time.
    """
    settings = wandb.Settings(
        console="off", finish_timeout_raises=True, x_disable_stats=not live, x_disable_meta=not live
    )
    with errors_in_one_line(), TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        run = wandb.init(mode="online", dir=folder, settings=settings, **options)
        try:
            yield run
        finally:
            run.finish()


def training_options(run: Path) -> dict[str, Any]:
    """Return the arguments with which `wandb.init` creates or resumes the run of a training."""
    config = read_json(run / "settings.json", dict[str, Any])
    return {**cast(WandbRun, WandbRun.read(run)).model_dump(), "config": config, "resume": "allow"}


def log_new_steps(online: wandb.Run, run: Path) -> None:
    """Log the steps of the history that are missing in wandb, with their times and previews."""
    first = online.step
    for entry in TrainingHistory.read(run / HISTORY).entries:
        if entry.step >= first:
            values = entry.model_dump(exclude={"step", "time"})
            if (picture := preview_path(run, entry.step)).exists():
                values["samples"] = wandb.Image(str(picture))
            online.log({**values, "_timestamp": entry.time}, step=entry.step, commit=True)


@contextmanager
def live_run(run: Path) -> Iterator[Callable[[object], None]]:
    """Yield a function that logs the new entries of the history during a training.

    One thread makes all calls to wandb, so that the training waits for wandb only at the end. If
    wandb fails, the thread prints one line and ends, and `psld wandb sync` uploads the missing
    steps later.

    Raises UserError if no user is logged in.
    """
    check_login()
    queue: SimpleQueue[int | None] = SimpleQueue()  # None: log new entries; a number: exit code

    def upload() -> None:
        try:
            with online_run(live=True, **training_options(run)) as online:
                while (exit_code := queue.get()) is None:
                    log_new_steps(online, run)
                online.finish(exit_code)
        except Exception as error:  # wandb also raises errors of its dependencies.
            print(
                f"wandb: {_reason(error)}; `psld wandb sync` uploads the missing steps", flush=True
            )

    thread, exit_code = Thread(target=upload, name="wandb", daemon=True), 1
    thread.start()
    try:
        yield lambda _: queue.put(None)
        exit_code = 0
    finally:
        queue.put(exit_code)
        thread.join()
