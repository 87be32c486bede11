"""Sync: upload to wandb what trainings and `psld.track` wrote offline, each file once.

    psld sync grid_name=demo

Each start of a training leaves a file. One that a hard kill has broken off is uploaded as far as
it is whole. A training that is running is left for later. Needs the account of wandb
(`wandb login`, or WANDB_API_KEY).
"""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from enum import Enum, auto
from pathlib import Path
from textwrap import shorten

from psld.commands.entry import entry_point
from psld.utils.errors import RunError, UserError
from psld.utils.locks import held_if_free, sole_holder
from psld.config.settings import Settings
from psld.training.wandb_runs import records_in

BROKEN_OFF = (
    "the file ends with an incomplete record",
    "Internal error: transactionlog: error getting next record",
)
"""What wandb says of a file's end that it cannot read, once it has uploaded what comes before."""

CLIENTS = ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER")
PATIENCE = {f"WANDB_X_{client}_RETRY_MAX": "3" for client in CLIENTS}
"""How often wandb asks a server again that does not answer: half a minute, not a quarter of an hour
and more."""


class SyncSettings(Settings):
    """Settings of `psld sync`."""

    grid_name: str
    """Name of the grid whose results are uploaded."""
    runs: Path
    """Folder of run directories; the trainings of all grids are uploaded."""
    tracked: Path
    """Folder of the runs that `psld.track` wrote."""


class Outcome(Enum):
    """What became of a file."""

    UPLOADED = auto()
    """As far as it is whole."""
    EMPTY = auto()
    """A kill came before wandb had written anything."""
    LEFT = auto()
    """A training is running there."""
    FAILED = auto()
    """For the reason that was printed; the next sync tries again."""


@entry_point("sync", SyncSettings)
def main(settings: SyncSettings) -> None:
    outcomes: Counter[Outcome] = Counter()
    with sole_holder(settings.runs / "sync.lock", "waiting for another sync"):
        for run in sorted(settings.runs.glob("*")):
            outcomes.update(upload_training(run))
        outcomes.update(map(upload, not_uploaded(settings.tracked)))
    if outcomes[Outcome.FAILED]:
        raise RunError(f"wandb: uploads that failed: {outcomes[Outcome.FAILED]}, see above")
    if not outcomes.keys() - {Outcome.EMPTY}:
        print(f"nothing to upload in {settings.runs} and {settings.tracked}")


def upload_training(run: Path) -> Iterator[Outcome]:
    """Upload the files of a training in their order, up to the first that fails."""
    if not not_uploaded(run):
        return
    with held_if_free(run / "lock") as nobody_trains:
        # A life that begins while these are uploaded writes a file of its own.
        finished = not_uploaded(run)
    if not nobody_trains:
        print(f"{run}: left for later, it is being trained", flush=True)
        yield Outcome.LEFT
        return
    for file in finished:
        outcome = upload(file)
        yield outcome
        if outcome is Outcome.FAILED:
            return


def not_uploaded(folder: Path) -> list[Path]:
    """What was written offline in `folder`, oldest first."""
    files = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))
    return [file for file in files if not mark_of(file).exists()]


def mark_of(file: Path) -> Path:
    """The file that tells wandb, too, that `file` is uploaded."""
    return file.with_suffix(".wandb.synced")


def upload(file: Path) -> Outcome:
    """Upload a file and print what became of it. Raises UserError where nobody is logged in."""
    try:
        if not any(record["type"] == "run" for record in records_in(file)):
            return Outcome.EMPTY
    except RunError as error:
        print(f"not uploaded: {error}", flush=True)
        return Outcome.FAILED
    try:
        errors = errors_of_sync(file)
    except BaseException:
        mark_of(file).unlink(missing_ok=True)
        raise
    if not errors:
        print(f"{file.parent}: uploaded", flush=True)
        return Outcome.UPLOADED
    if all(any(words in error for words in BROKEN_OFF) for error in errors):
        mark_of(file).touch()
        print(f"{file.parent}: uploaded up to where it is broken off", flush=True)
        return Outcome.UPLOADED
    # wandb marks a file even if the server has refused its content.
    mark_of(file).unlink(missing_ok=True)
    # A server's answer can be a whole page.
    reason = shorten(" ".join(errors), 300, placeholder=" …")
    print(f"{file.parent}: not uploaded: {reason}", flush=True)
    return Outcome.FAILED


def errors_of_sync(file: Path) -> list[str]:
    """What wandb's own command has against a file; its exit code does not tell."""
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", str(file)],
        env={**PATIENCE, **os.environ, "WANDB_SILENT": "false"},
        stdin=subprocess.DEVNULL,  # it would ask for an API key
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    lines = [line.removeprefix("wandb: ") for line in done.stdout.splitlines()]
    errors = [line for line in lines if line.startswith(("ERROR ", "Error: "))]
    errors = [line.partition(" ")[2] for line in errors]
    if errors and "API key" in errors[-1]:
        raise UserError(f"wandb: {errors[-1]}")
    if not errors and not mark_of(file).exists():
        return lines[-1:] or ["wandb does not say why"]
    return errors


if __name__ == "__main__":
    main()
