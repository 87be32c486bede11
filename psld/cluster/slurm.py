"""Calls of Slurm commands that query and cancel jobs, and a clean environment for new jobs.

`psld.cluster.launcher` submits jobs.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from textwrap import shorten
from typing import NamedTuple, TypeVar

from psld.cluster.forks import FORKS
from psld.cluster.job import RUN
from psld.utils.errors import PSLDError, RunError

T = TypeVar("T")

GONE = "GONE"
"""A state that psld adds to the states of Slurm: the controller no longer knows the job. This
happens some minutes after the end of a job."""
FINAL = {"COMPLETED", "CANCELLED", "FAILED", "OUT_OF_MEMORY", "DEADLINE"}
"""States after which Slurm does not requeue a job automatically."""
ENDED = FINAL | {"TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "LAUNCH_FAILED", "REVOKED", GONE}
"""States of an ended job. A job in any other state is waiting or running, or will run again. This
includes states that later versions of Slurm may add."""
ANSWER_SECONDS = 60
"""Time limit of a Slurm command in seconds. A busy controller answers slowly."""
NO_ANSWER = (
    "Unable to contact",
    "Socket timed out",
    "Connection refused",
    "Connection timed out",
    "Zero Bytes were transmitted",
    "temporarily un",  # unavailable; unable to accept job
    "MaxSubmitJob",
)
"""Parts of the error messages of sbatch if the controller is down or busy, or if the user has too
many jobs."""
REFUSALS = (
    "authentication",  # Munge is down or has another key.
    "credential",
    "munge",
    "permission denied",
    "invalid user",
    "invalid account",
    "known by database",  # "No cluster 'x' known by database."
    "invalid cluster name",
    "configuration file",  # "Unable to process configuration file"
    "incompatible versions",
    "nvalid option",
    "unrecognized option",
)
"""Parts, in lower case, of the error messages if Slurm denies access to this user or machine. Such
errors persist. "Could not establish a configuration source" is not in the list, because it means
that the controller is down on sites that get the configuration from the controller."""
REFUSED_SECONDS = 120
"""Seconds for which commands are retried after Slurm has denied access. A restart of munge or of
the controller takes only seconds."""
NO_ANSWER_SECONDS = 3 * 24 * 3600
"""Seconds for which commands are retried if Slurm does not answer. The maintenance of a cluster may
take a weekend."""
SURROUNDING = r"SLURM_(?!CONF$)|SLURMD_|SBATCH_|SRUN_|SUBMITIT_"
"""A pattern of the environment variables that a surrounding Slurm job sets. It excludes the path of
Slurm's configuration."""
INHERITED = rf"{SURROUNDING}|{RUN}$|{FORKS}$|\w+_DEVICES$|GPU_DEVICE|\w+_THREADS$|TE?MP(DIR)?$"
"""A pattern of environment variables that sbatch would pass on to a job but must not. It contains
`SURROUNDING` and variables of a shell or a Snakemake rule."""


class SlurmJob(NamedTuple):
    """The state of a job, as known to the controller."""

    state: str
    reason: str
    """Why the job waits; empty if it does not wait."""

    def __str__(self) -> str:
        return self.state.lower() + (self.reason and f" ({self.reason})")


class Unreachable(PSLDError):
    """The controller does not answer now, but may answer later."""

    exit_code = 1


class AccessDenied(Unreachable):
    """Slurm denies access to this user or this machine."""


def retry_until_reachable(
    ask: Callable[[], T],
    say: Callable[[str], None],
    pause: Callable[[float], None] = time.sleep,
) -> T:
    """Call `ask` again and again while it raises Unreachable, and return its result.

    Each new error is printed once. Raises RunError if Slurm does not answer for too long.
    """
    first: dict[type[Unreachable], float] = {}
    last = ""
    while True:
        try:
            return ask()
        except Unreachable as error:
            limit = REFUSED_SECONDS if isinstance(error, AccessDenied) else NO_ANSWER_SECONDS
            since = first.setdefault(type(error), time.monotonic())
            if time.monotonic() - since >= limit:
                raise RunError(
                    f"{error} (for {timedelta(seconds=limit)}); jobs in Slurm are unchanged; run "
                    "the same command again when Slurm answers"
                ) from None
            if str(error) != last:
                say(f"{error}; retrying until Slurm answers")
            last = str(error)
        pause(5)


def available() -> bool:
    """Check if sbatch is installed and a cluster is configured."""
    if shutil.which("sbatch") is None:
        return False
    ping = subprocess.run(["scontrol", "ping"], capture_output=True, text=True)
    return "configuration source" not in ping.stderr


def jobs_named(name: str) -> dict[str, SlurmJob]:
    """Return the jobs with this name that the controller still knows, by job ID.

    Only jobs of this user are returned. The function queries the controller and not the accounting
    database, which is optional and updated with a delay of minutes. Raises Unreachable.
    """
    options = ("--noheader", "--me", "--states=all", f"--name={name}", "--format=%A %T %r")
    answer = _run("squeue", *options)
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    jobs = [re.fullmatch(r"(\d+) +([A-Z_]+)(?: +(.*))?", line, re.ASCII) for line in lines]
    if not all(jobs):
        raise Unreachable(f"squeue answered {shorten(answer, 80)!r}")
    found = {}
    for number, state, reason in (job.groups("") for job in jobs if job):
        waits = state == "PENDING" and reason != "None"
        # Omit the list of missing nodes after the comma, because this list changes all the time.
        found[number] = SlurmJob(state, reason.partition(",")[0] if waits else "")
    return found


def active_jobs_named(name: str) -> list[str]:
    """Return the active jobs of this user with this name, newest first. Raises Unreachable."""
    active = [number for number, job in jobs_named(name).items() if job.state not in ENDED]
    return sorted(active, key=int, reverse=True)


def jobs_with_comment(name: str, comment: str | None) -> set[str]:
    """Return the jobs of this user with this name and comment. Raises Unreachable.

    If `comment` is None, no job matches.
    """
    options = ("--noheader", "--me", "--states=all", f"--name={name}", "--format=%A %k")
    lines = (line.strip().partition(" ") for line in _run("squeue", *options).splitlines())
    return {number for number, _, theirs in lines if theirs == comment}


def cancel_jobs_named(name: str) -> None:
    """Cancel all jobs of this user with this name. Raises Unreachable."""
    _run("scancel", "--me", f"--name={name}")


def _run(*command: str) -> str:
    """Return the output of a Slurm command. Raises Unreachable."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=ANSWER_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise Unreachable(f"{command[0]} did not answer in {ANSWER_SECONDS} seconds") from None
    except OSError as error:
        raise AccessDenied(f"{command[0]}: {error.strerror}") from None
    if done.returncode == 0:
        return done.stdout
    kind = AccessDenied if any(sign in done.stderr.lower() for sign in REFUSALS) else Unreachable
    raise kind(" ".join(done.stderr.split()) or f"{command[0]} failed")


@contextmanager
def environment_without(variables: str) -> Iterator[None]:
    """Remove the environment variables whose names match a pattern, within the block.

    A job that is submitted from within another job must get the resources that it requests, not the
    resources of the other job.
    """
    before = dict(os.environ)
    for name in before:
        if re.match(variables, name):
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(before)
