"""Slurm's commands, except for submission: the state of a job, its end, a clean environment."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from textwrap import shorten

from psld.utils.errors import PSLDError, RunError

GONE = "GONE"
"""Our name for the state of a job that the controller has forgotten, some minutes after its end."""
FINAL = {"COMPLETED", "CANCELLED", "FAILED", "OUT_OF_MEMORY", "DEADLINE"}
"""States after which Slurm does not requeue a job by itself."""
ENDED = FINAL | {"TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "LAUNCH_FAILED", "REVOKED", GONE}
"""A job in any other state, also one of a later Slurm, waits, runs, or will run again."""
HELD = ("JobHeldUser", "launch failed requeued held", "job requeued in held state")
"""Reasons for which a job waits until its user releases it."""
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
INHERITED = (
    *("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS"),
    *("VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMEXPR_MAX_THREADS"),
    *("TMPDIR", "TMP", "TEMP", "TEMPDIR"),
)
"""Variables of a surrounding job, shell or Snakemake rule that sbatch would pass on to a job."""


class Unreachable(PSLDError):
    """The controller does not answer; it may later."""

    exit_code = 1


class Refused(Unreachable):
    """Slurm refuses to answer this user or this machine."""


class Patience:
    """Limits how long a question is repeated that Slurm does not answer."""

    def __init__(self) -> None:
        self.since: dict[type[Unreachable], float] = {}
        self.last = ""

    def spend(self, error: Unreachable) -> bool:
        """Return True if the error is another than the last one; the question may be repeated.

        Raises RunError if it was repeated for too long.
        """
        limit = REFUSED_SECONDS if isinstance(error, Refused) else NO_ANSWER_SECONDS
        first = self.since.setdefault(type(error), time.monotonic())
        if time.monotonic() - first >= limit:
            raise RunError(
                f"{error} (for {timedelta(seconds=limit)}); jobs in Slurm are left as they are; "
                "the same command goes on when Slurm answers"
            )
        before, self.last = self.last, str(error)
        return before != self.last


def available() -> bool:
    """Check that there is sbatch and that it has a configured cluster."""
    if shutil.which("sbatch") is None:
        return False
    ping = subprocess.run(["scontrol", "ping"], capture_output=True, text=True)
    return "configuration source" not in ping.stderr


def state_of(job: str) -> tuple[str, str]:
    """Return Slurm's state of a job, or GONE, and why it waits. Raises Unreachable.

    The controller answers this. Not every cluster has accounting, and it is minutes late.
    """
    answer = _run("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T %r")
    state, _, reason = answer.strip().partition(" ")
    if state and not re.fullmatch("[A-Z_]+", state):
        raise Unreachable(f"squeue answered {shorten(answer, 80)!r}")
    waits = state == "PENDING" and reason != "None"
    # A list of missing nodes follows the comma; it changes all the time.
    return state or GONE, reason.partition(",")[0] if waits else ""


def active_jobs_named(name: str) -> list[str]:
    """This user's jobs of that name that have not ended, the newest first. Raises Unreachable."""
    found = _states(r"\d+", f"--name={name}", "--format=%A %T")
    return sorted((job for job, state in found if state not in ENDED), key=int, reverse=True)


def states_named(name: str) -> dict[str, str]:
    """The states of this user's jobs of that name, also of ended ones. Raises Unreachable.

    Each job of an array has an entry, also while it waits: ARRAY_INDEX.
    """
    every = ("--array", "--states=all", f"--name={name}", "--format=%i %T")
    return dict(_states(r"\S+", *every))


def _states(job: str, *options: str) -> list[tuple[str, str]]:
    """Return this user's jobs, which match the pattern `job`, with their states.

    Raises Unreachable if squeue answers something else.
    """
    answer = _run("squeue", "--noheader", "--me", *options)
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    found = [re.fullmatch(rf"({job}) +([A-Z_]+)", line, re.ASCII) for line in lines]
    if not all(found):
        raise Unreachable(f"squeue answered {shorten(answer, 80)!r}")
    return [each.groups() for each in found]


def cancel_jobs_named(name: str) -> None:
    """End this user's jobs of that name. Raises Unreachable."""
    _run("scancel", "--me", f"--name={name}")


def _run(*command: str) -> str:
    """Return the output of a Slurm command; it is empty for a job that does not exist."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=ANSWER_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise Unreachable(f"{command[0]} did not answer in {ANSWER_SECONDS} seconds") from None
    except OSError as error:
        raise Refused(f"{command[0]}: {error.strerror}") from None
    if done.returncode == 0 or "Invalid job id" in done.stderr:
        return done.stdout
    kind = Refused if any(sign in done.stderr.lower() for sign in REFUSALS) else Unreachable
    raise kind(" ".join(done.stderr.split()) or f"{command[0]} failed")


@contextmanager
def clean_environment(*variables: str) -> Iterator[None]:
    """Remove these variables and those of a surrounding Slurm job, except SLURM_CONF.

    A job that is submitted within a job must get what it asks for, not what its parent has.
    """
    # submitit is slow to import, and every Snakemake process imports this module.
    from submitit.helpers import clean_env

    configuration = os.environ.get("SLURM_CONF")
    with clean_env(variables):
        if configuration:
            os.environ["SLURM_CONF"] = configuration
        yield
