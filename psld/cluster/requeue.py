"""A job's way into its next life: from inside, when Slurm warns of a time limit or a preemption."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from psld.cluster.lives import begin_life
from psld.training.stop import Stopped

FAREWELL_SECONDS = 600
"""How long a process whose job was queued again waits to be ended by Slurm."""


def in_slurm_job() -> bool:
    """Whether submitit started this process as a task of a Slurm job."""
    return os.environ.get("SUBMITIT_EXECUTOR") == "slurm" and "SLURM_JOB_ID" in os.environ


@contextmanager
def requeued_when_stopped() -> Iterator[Callable[[Path, int], None]]:
    """Within, a training that Slurm stops before a time limit or a preemption is queued again.

    Yields what the training calls when it begins, with its run directory and step. Outside of a
    Slurm job it does nothing, and a stopped training ends.
    """
    if not in_slurm_job():
        yield lambda run, step: None
        return
    requeue_when_warned()  # until there is something to save
    try:
        yield begin_life
    except Stopped as stopped:
        # Without a warning before a preemption, Slurm begins with SIGTERM, as scancel does.
        if stopped.signal == signal.SIGUSR2 or is_preempted():
            requeue_this_job()
        raise


def requeue_when_warned() -> None:
    """From now on the warning signal queues this job again at once."""
    signal.signal(signal.SIGUSR2, lambda *_: requeue_this_job())


def requeue_this_job() -> NoReturn:
    """Queue this task's job again, once for all its tasks, and wait for Slurm to end this life.

    Slurm itself queues a job again that it preempts. To ask for it as well would run the job once
    more after it has finished, and to leave before Slurm ends it would count as its end.
    """
    job = _this_job()
    if os.environ.get("SLURM_PROCID") == "0" and not is_preempted():
        asked = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
        complaint = " ".join(asked.stderr.split())
        if asked.returncode and "pending" not in complaint:
            print(f"job {job} could not be queued again: {complaint}", flush=True)
            raise SystemExit(128 + signal.SIGUSR2)
    print(f"job {job} goes on when it is scheduled again", flush=True)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(FAREWELL_SECONDS)
    raise SystemExit(128 + signal.SIGUSR2)


def is_preempted() -> bool:
    """Whether Slurm preempts this task's job, in this life, not in an earlier one."""
    show = ["scontrol", "--oneliner", "show", "job", _this_job()]
    description = subprocess.run(show, capture_output=True).stdout.decode(errors="replace")
    times = dict(re.findall(r"(StartTime|PreemptTime)=(\d\d\d\d-\d\d-\d\dT\S+)", description))
    return times.get("PreemptTime", "") >= times.get("StartTime", "~")


def _this_job() -> str:
    """The job as scontrol takes it.

    In an array not by its number: the last job's is also that of the whole array.
    """
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]
