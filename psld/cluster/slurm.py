"""Slurm's commands, except for submission: the states of jobs, their end, a clean environment."""

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

from psld.cluster.job import RUN
from psld.utils.errors import PSLDError, RunError

T = TypeVar("T")

GONE = "GONE"
"""Our name for the state of a job that the controller has forgotten, some minutes after its end."""
FINAL = {"COMPLETED", "CANCELLED", "FAILED", "OUT_OF_MEMORY", "DEADLINE"}
"""States after which Slurm does not requeue a job by itself."""
ENDED = FINAL | {"TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "LAUNCH_FAILED", "REVOKED", GONE}
"""A job in any other state, also one of a later Slurm, waits, runs, or will run again."""
ANSWER_SECONDS = 60
"""Time limit of a Slurm command: a busy controller is slow."""
NO_ANSWER = (
    "Unable to contact",
    "Socket timed out",
    "Connection refused",
    "Connection timed out",
    "Zero Bytes were transmitted",
    "temporarily un",  # unavailable; unable to accept job
    "MaxSubmitJob",
)
"""Errors of sbatch while the controller is down or busy, or the user has too many jobs."""
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
"""Errors, in lower case, with which Slurm refuses this user or machine; they do not end by
themselves. Where Slurm's configuration comes from the controller, "Could not establish a
configuration source" is no refusal: the controller is down."""
REFUSED_SECONDS = 120
"""Seconds to ask again after a refusal: restarts of munge and of the controller take seconds."""
NO_ANSWER_SECONDS = 3 * 24 * 3600
"""Seconds to ask again without an answer: a cluster's maintenance may take a weekend."""
SURROUNDING = r"SLURM_(?!CONF$)|SLURMD_|SBATCH_|SRUN_|SUBMITIT_"
"""The variables of a surrounding Slurm job, except for the place of Slurm's configuration."""
INHERITED = rf"{SURROUNDING}|{RUN}$|\w+_DEVICES$|GPU_DEVICE|\w+_THREADS$|TE?MP(DIR)?$"
"""These, and those of a surrounding shell or Snakemake rule that sbatch would pass on to a job."""


class SlurmJob(NamedTuple):
    """A job as the controller describes it."""

    state: str
    reason: str
    """Why it waits; empty if it does not."""

    def __str__(self) -> str:
        return self.state.lower() + (self.reason and f" ({self.reason})")


class Unreachable(PSLDError):
    """The controller does not answer; it may later."""

    exit_code = 1


class Refused(Unreachable):
    """Slurm refuses to answer this user or this machine."""


def until_answered(
    ask: Callable[[], T],
    say: Callable[[str], None],
    pause: Callable[[float], None] = time.sleep,
) -> T:
    """Return the answer of `ask`; repeat it while Slurm does not answer.

    Each new reason is said once. Raises RunError if Slurm does not answer for too long.
    """
    first: dict[type[Unreachable], float] = {}
    last = ""
    while True:
        try:
            return ask()
        except Unreachable as error:
            limit = REFUSED_SECONDS if isinstance(error, Refused) else NO_ANSWER_SECONDS
            since = first.setdefault(type(error), time.monotonic())
            if time.monotonic() - since >= limit:
                raise RunError(
                    f"{error} (for {timedelta(seconds=limit)}); jobs in Slurm are left as they "
                    "are; the same command goes on when Slurm answers"
                ) from None
            if str(error) != last:
                say(f"{error}; asking again until it answers")
            last = str(error)
        pause(5)


def available() -> bool:
    """Check that there is sbatch and that it has a configured cluster."""
    if shutil.which("sbatch") is None:
        return False
    ping = subprocess.run(["scontrol", "ping"], capture_output=True, text=True)
    return "configuration source" not in ping.stderr


def jobs_named(name: str) -> dict[str, SlurmJob]:
    """Return this user's jobs of that name, until the controller forgets them. Raises Unreachable.

    The controller answers this. Not every cluster has accounting, and it is minutes late.
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
        # A list of missing nodes follows the comma; it changes all the time.
        found[number] = SlurmJob(state, reason.partition(",")[0] if waits else "")
    return found


def active_jobs_named(name: str) -> list[str]:
    """This user's jobs of that name that have not ended, the newest first. Raises Unreachable."""
    active = [number for number, job in jobs_named(name).items() if job.state not in ENDED]
    return sorted(active, key=int, reverse=True)


def jobs_with_comment(name: str, comment: str | None) -> set[str]:
    """This user's jobs of that name and comment; of None, none. Raises Unreachable."""
    options = ("--noheader", "--me", "--states=all", f"--name={name}", "--format=%A %k")
    lines = (line.strip().partition(" ") for line in _run("squeue", *options).splitlines())
    return {number for number, _, theirs in lines if theirs == comment}


def cancel_jobs_named(name: str) -> None:
    """End this user's jobs of that name. Raises Unreachable."""
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
        raise Refused(f"{command[0]}: {error.strerror}") from None
    if done.returncode == 0:
        return done.stdout
    kind = Refused if any(sign in done.stderr.lower() for sign in REFUSALS) else Unreachable
    raise kind(" ".join(done.stderr.split()) or f"{command[0]} failed")


@contextmanager
def environment_without(variables: str) -> Iterator[None]:
    """Remove the environment variables whose names begin with this pattern.

    A job that is submitted within a job must get what it asks for, not what its parent has.
    """
    before = dict(os.environ)
    for name in before:
        if re.match(variables, name):
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(before)
