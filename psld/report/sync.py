"""Upload to wandb what the server lacks: offline runs, and online runs that it did not take.

Each start of a training writes one file. If a kill cut a file off, its complete part is uploaded.
A running training waits for the next sync. Needs a login (`wandb login`, or WANDB_API_KEY).

What arrived and what was refused is read from wandb's logs, because wandb prints only a part.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten
from typing import Any, Literal

from psld.training.wandb_runs import records_in
from psld.utils.errors import RunError, UserError
from psld.utils.locks import held_if_free, sole_holder

CUT_OFF = "the file ends with an incomplete record"
UNREADABLE = "Internal error: transactionlog: error getting next record"
"""The messages of wandb about what it cannot read in a file, after it uploaded what is before."""

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
        outcomes += [_upload(file) for file in sorted(_not_uploaded(tracked))]
    if failed := outcomes.count("failed"):
        raise RunError(f"wandb: uploads that failed: {failed}, see above")
    if set(outcomes) <= {"empty"}:
        print(f"nothing to upload in {runs} and {tracked}")


def _upload_training(run: Path) -> list[Outcome]:
    """Upload the files of a training, in the order of their steps, until one fails."""
    if not _not_uploaded(run):
        return []
    with held_if_free(run / "lock") as held:
        files = _not_uploaded(run)  # A training that starts from now on writes another file.
    if not held:
        print(f"{run}: left for the next sync, the training is running", flush=True)
        return ["running"]
    outcomes: list[Outcome] = []
    for file in sorted(files, key=_first_step):
        outcomes.append(_upload(file))
        if outcomes[-1] == "failed":
            break
    return outcomes


def _not_uploaded(folder: Path) -> list[Path]:
    """Return the files that the server lacks."""
    files = folder.glob("wandb/*run-*/run-*.wandb")
    return [file for file in files if not mark_of(file).exists() and not _arrived(file)]


def _arrived(file: Path) -> bool:
    """Tell whether the server took the whole history of an online run while it ran.

    A run without any history has nothing that could be missing.
    """
    if file.parent.name.startswith("offline-"):
        return False
    try:
        lines = sum(record["type"] == "history" for record in records_in(file))
    except RunError:
        return False
    log = _log_entries([file.parent / "logs" / "debug-internal.log"])
    sent = asked = 0
    for entry in log:
        if entry["msg"] == "filestream: sending request":
            asked = entry.get("history_lines", 0)
        elif entry["msg"] == "filestream: request sent":
            sent += asked
    return lines == 0 or (sent >= lines and not _failures(log))


def _log_entries(files: Iterable[Path]) -> list[dict[str, Any]]:
    """Return the lines of wandb's logs. After a power cut, some are damaged."""
    entries = []
    for line in (line for file in files if file.exists() for line in file.open("rb")):
        with suppress(ValueError):
            entries.append({"msg": "", "level": "", **json.loads(line)})
    return entries


def _failures(log: list[dict[str, Any]]) -> list[str]:
    """Return what failed, and may succeed another time. Rejected files are not among it."""
    errors = [entry for entry in log if entry["level"] == "ERROR" and not _is_rejection(entry)]
    return [
        f"the server answers {entry['status']} to {entry['method']} {entry['url']}"
        if "url" in entry
        else entry["msg"]
        for entry in errors
        if "url" in entry or ("task" in entry and "failed to upload: status: 4" not in entry["msg"])
    ]


def _is_rejection(entry: dict[str, Any]) -> bool:
    """Recognize an image or another file that the server will never take."""
    return entry.get("method") == "PUT" and 400 <= entry["status"] < 500


def _first_step(file: Path) -> int:
    """The first step in a file. The date in its name is no order: clocks are set back."""
    try:
        logged = (r["history"] for r in records_in(file) if r["type"] == "history")
        return next(logged, {"step": {"num": 0}})["step"]["num"]
    except RunError:
        return 0  # Its upload reports it.


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
    errors, rejected = _sync_errors(file)
    if not all(_is_lost_end(error, file) for error in errors):
        reason = shorten(" ".join(errors), 300, placeholder=" …")  # it may be a whole page
        print(f"{file.parent}: not uploaded: {reason}", flush=True)
        return "failed"
    mark_of(file).touch()
    part = " up to an incomplete record" if errors else ""
    without = f", without {rejected} files that the server rejects" if rejected else ""
    print(f"{file.parent}: uploaded{part}{without}", flush=True)
    return "uploaded"


def _is_lost_end(error: str, file: Path) -> bool:
    """Recognize what a kill leaves, or a power cut: zeros at the end."""
    return CUT_OFF in error or (UNREADABLE in error and file.read_bytes().endswith(bytes(8)))


def _sync_errors(file: Path) -> tuple[list[str], int]:
    """Run `wandb sync`; return its error messages and the number of files that were rejected.

    Its exit code shows no failures. It marks a file even if the server refuses it, and not if its
    end is cut off. So it gets the file by a link in another folder: after a kill, no mark is wrong.

    wandb gives new numbers to steps up to the last one that the server has, such as those of a file
    that a killed sync uploaded. With a state that tells where a file's steps begin, they keep their
    own, and the server replaces its rows. Only online runs have such a state already.
    """
    with TemporaryDirectory() as logs:
        linked = Path(logs) / "run" / file.name
        linked.parent.mkdir()
        for each in file.parent.iterdir():
            (linked.parent / each.name).symlink_to(each.resolve())
        if not (state := linked.with_suffix(".wandb.syncstate")).exists():
            state.write_text('{"starting_step": 0}')
        done = subprocess.run(
            [sys.executable, "-m", "wandb", "sync", "--include-online", str(linked)],
            env={**RETRIES, **os.environ, "WANDB_SILENT": "false", "WANDB_DIR": logs},
            stdin=subprocess.DEVNULL,  # otherwise it asks for an API key
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        marked = mark_of(linked).exists()
        log = _log_entries(Path(logs).glob("**/debug-sync*.log"))
    lines = [line.removeprefix("wandb: ") for line in done.stdout.splitlines()]
    errors = [line.partition(" ")[2] for line in lines if line.startswith(("ERROR ", "Error: "))]
    if errors and "API key" in errors[-1]:
        raise UserError(f"wandb: {errors[-1]}")
    errors += _failures(log)[:1]
    if not errors and not marked:
        errors = lines[-1:] or ["wandb gives no reason"]
    return errors, sum(map(_is_rejection, log))
