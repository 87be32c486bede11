"""What is asked of Slurm besides submitting: the state of a job, its end, its next life."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from psld.utils.errors import PSLDError

GONE = "GONE"
"""Our name for a job that the controller no longer knows, some minutes after its end."""

FINAL = {"COMPLETED", "CANCELLED", "FAILED", "OUT_OF_MEMORY", "DEADLINE"}
"""States after which Slurm does not queue a job again by itself."""

ENDED = FINAL | {"TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "LAUNCH_FAILED", "REVOKED", GONE}
"""In any other state, those of later versions included, a job waits, runs, or is about to again."""

HELD = ("JobHeldUser", "launch failed requeued held", "job requeued in held state")
"""Reasons for which a job waits until its user says otherwise."""

PATIENCE = 60
"""Seconds that a command of Slurm's may take: a busy controller is slow."""


NO_ANSWER = (
    "Unable to contact",
    "Socket timed out",
    "Connection refused",
    "Connection timed out",
    "Zero Bytes were transmitted",
    "temporarily un",  # unavailable; unable to accept job
    "MaxSubmitJob",
)
"""What the commands complain of while the controller is down, busy, or has enough of our jobs."""

OF_A_JOB = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")
"""What a surrounding job, or a shell, sets of devices: sbatch hands it on."""

OF_A_RULE = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS"),
    *("VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMEXPR_MAX_THREADS"),
    *("TMPDIR", "TMP", "TEMP", "TEMPDIR"),
)
"""What Snakemake sets for the commands of its rules, of which a launcher is one."""


class Unreachable(PSLDError):
    """The controller does not answer; it may later."""

    exit_code = 1


def available() -> bool:
    """Whether jobs can be submitted from here: there is sbatch, and it knows of a cluster."""
    if shutil.which("sbatch") is None:
        return False
    asked = subprocess.run(["scontrol", "ping"], capture_output=True, text=True)
    return "configuration source" not in asked.stderr


def state_of(job: str) -> tuple[str, str]:
    """A state of Slurm's, such as PENDING, or GONE; and why it waits. Raises Unreachable.

    From the controller, not from accounting: not every cluster has that, and it is minutes late.
    """
    answer = _ask("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T %r")
    state, _, reason = answer.strip().partition(" ")
    waits = state == "PENDING" and reason != "None"
    # After a comma stand the nodes that are missed: ever others.
    return state or GONE, reason.partition(",")[0] if waits else ""


def active_jobs_named(name: str) -> list[str]:
    """This user's jobs of that name that have not ended, the newest first. Raises Unreachable."""
    answer = _ask("squeue", "--noheader", "--me", f"--name={name}", "--format=%A %T")
    found = [line.split() for line in answer.splitlines()]
    return sorted((job for job, state in found if state not in ENDED), key=int, reverse=True)


def cancel_jobs_named(name: str) -> None:
    """End this user's jobs of that name. Raises Unreachable."""
    _ask("scancel", "--me", f"--name={name}")


def _ask(*command: str) -> str:
    """The answer, empty for a job that does not exist (any more)."""
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise Unreachable(f"{command[0]} did not answer in {PATIENCE} seconds") from None
    if asked.returncode == 0 or "Invalid job id" in asked.stderr:
        return asked.stdout
    raise Unreachable(" ".join(asked.stderr.split()) or f"{command[0]} failed")


@contextmanager
def clean_environment(*variables: str) -> Iterator[None]:
    """None of these variables, and none of Slurm's of a surrounding job: what is started here gets
    what it asks for, not what its parent has. Where the cluster's configuration lies stays known.
    """
    # submitit is slow to import, and every Snakemake process imports this module.
    from submitit.helpers import clean_env

    configuration = os.environ.get("SLURM_CONF")
    with clean_env(variables):
        if configuration:
            os.environ["SLURM_CONF"] = configuration
        yield
