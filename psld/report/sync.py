"""Upload to wandb what was written offline, each file once.

Each start of a training writes one file. If a kill cut a file off, its complete part is uploaded.
A running training waits for the next sync. Needs a login (`wandb login`, or WANDB_API_KEY).
"""

import os
import subprocess
import sys
from pathlib import Path
from textwrap import shorten
from typing import Literal

from psld.training.wandb_runs import records_in
from psld.utils.errors import RunError, UserError
from psld.utils.locks import held_if_free, sole_holder

CUT_OFF = (
    "the file ends with an incomplete record",
    "Internal error: transactionlog: error getting next record",
)
"""The messages of wandb about an unreadable end of a file, after it uploaded the rest."""

RETRIES = {
    f"WANDB_X_{client}_RETRY_MAX": "3" for client in ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER")
}
"""Give up after half a minute without an answer, instead of a quarter of an hour."""

# A file is empty if a kill came before its first record.
Outcome = Literal["uploaded", "empty", "running", "failed"]


def sync(runs: Path, tracked: Path) -> None:
    """Upload all trainings in the run directories `runs`, and the results in `tracked`.

    Raises RunError if an upload failed.
    """
    outcomes: list[Outcome] = []
    with sole_holder(runs / "sync.lock", "waiting for another sync"):
        for run in sorted(runs.glob("*")):
            outcomes += _upload_training(run)
        outcomes += [_upload(file) for file in _not_uploaded(tracked)]
    if failed := outcomes.count("failed"):
        raise RunError(f"wandb: uploads that failed: {failed}, see above")
    if set(outcomes) <= {"empty"}:
        print(f"nothing to upload in {runs} and {tracked}")


def _upload_training(run: Path) -> list[Outcome]:
    """Upload the files of a training, oldest first, until one fails."""
    if not _not_uploaded(run):
        return []
    with held_if_free(run / "lock") as held:
        files = _not_uploaded(run)  # A training that starts from now on writes another file.
    if not held:
        print(f"{run}: left for the next sync, the training is running", flush=True)
        return ["running"]
    outcomes: list[Outcome] = []
    for file in files:
        outcomes.append(_upload(file))
        if outcomes[-1] == "failed":
            break
    return outcomes


def _not_uploaded(folder: Path) -> list[Path]:
    files = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))
    return [file for file in files if not mark_of(file).exists()]


def mark_of(file: Path) -> Path:
    """Return the path that marks `file` as uploaded, for wandb too."""
    return file.with_suffix(".wandb.synced")


def _upload(file: Path) -> Outcome:
    """Upload a file and print the outcome. Raises UserError without a login."""
    try:
        if not any(record["type"] == "run" for record in records_in(file)):
            return "empty"
    except RunError as error:
        print(f"not uploaded: {error}", flush=True)
        return "failed"
    uploaded = False
    try:
        errors = _sync_errors(file)
        uploaded = all(any(words in error for words in CUT_OFF) for error in errors)
    finally:
        # wandb marks a file even if the server refuses it, and not if its end is cut off.
        if uploaded:
            mark_of(file).touch()
        else:
            mark_of(file).unlink(missing_ok=True)
    if not uploaded:
        reason = shorten(" ".join(errors), 300, placeholder=" …")  # it may be a whole page
        print(f"{file.parent}: not uploaded: {reason}", flush=True)
        return "failed"
    part = " up to an incomplete record" if errors else ""
    print(f"{file.parent}: uploaded{part}", flush=True)
    return "uploaded"


def _sync_errors(file: Path) -> list[str]:
    """Run `wandb sync` and return its error messages; its exit code shows no failures."""
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", str(file)],
        env={**RETRIES, **os.environ, "WANDB_SILENT": "false"},
        stdin=subprocess.DEVNULL,  # otherwise it asks for an API key
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    lines = [line.removeprefix("wandb: ") for line in done.stdout.splitlines()]
    errors = [line.partition(" ")[2] for line in lines if line.startswith(("ERROR ", "Error: "))]
    if errors and "API key" in errors[-1]:
        raise UserError(f"wandb: {errors[-1]}")
    if not errors and not mark_of(file).exists():
        return lines[-1:] or ["wandb gives no reason"]
    return errors
