"""The code inside a job: its end together with Snakemake, ranks in Slurm, and restarts.

Snakemake sets the environment variable PSLD_RUN to the folder of its run (`psld.cluster.head`), and
holds the kernel lock `alive` in this folder. The kernel releases the lock when Snakemake exits,
even after kill -9.

The Slurm job of a training runs until the training ends, or until a time limit, a preemption or a
node failure, after which the job is restarted. Before a time limit or a preemption, the job
requeues itself. The number of restarts is unlimited as long as the training makes progress.
"""

import fcntl
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from psld.utils.errors import RunError, Stopped
from psld.utils.files import STEP, read_json, write_json

RUN = "PSLD_RUN"
"""The environment variable with the folder of the Snakemake run that started this process."""
RECORDS = "PSLD_RECORDS"
"""The environment variable with the digests of the records planned for a Slurm job."""
GRACE_SECONDS = 60
"""Seconds between SIGTERM and SIGKILL. In this time, a training saves a checkpoint."""
FRUITLESS_LIVES = 2
"""The maximum number of times that a job may start at the same step."""
END_SECONDS = 600
"""Seconds that a process waits for Slurm to end it after a requeue."""


def end_with_snakemake(command: str) -> None:
    """End this process when the Snakemake that started it ends.

    The function returns at once; a thread waits for the end of Snakemake. The process then receives
    SIGTERM, at which a training saves a checkpoint. `psld launch` cancels its Slurm job if
    Snakemake was interrupted, but not if Snakemake was killed.
    """
    run = os.environ.get(RUN)
    if not run:
        return
    try:
        alive = os.open(f"{run}/alive", os.O_RDONLY)
    except FileNotFoundError:
        sys.exit("error: the Snakemake that started this job has ended; this job exits")
    threading.Thread(target=_end, args=(run, alive, command == "launch"), daemon=True).start()


def _end(run: str, alive: int, is_launcher: bool) -> None:
    fcntl.flock(alive, fcntl.LOCK_SH)  # blocks until Snakemake exits
    try:
        was_interrupted = b'"interrupted"' in Path(run, "run.json").read_bytes()
    except FileNotFoundError:  # Snakemake was killed, and the next run has removed the folder.
        was_interrupted = False
    if is_launcher and not was_interrupted:
        os._exit(1)
    print("the Snakemake that started this job has ended; stopping this job", file=sys.stderr)
    os.kill(os.getpid(), signal.SIGTERM)
    if not was_interrupted:
        time.sleep(GRACE_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)


def run_rank(words: list[str]) -> None:
    """Run `psld WORD …` as one rank of a Slurm job."""
    requeue_when_warned()
    # If Slurm does not bind tasks to cores, each rank would use all cores, which is very slow.
    os.environ.setdefault("OMP_NUM_THREADS", os.environ.get("SLURM_CPUS_PER_TASK", "1"))
    sys.argv = ["psld", *words]
    runpy.run_module("psld", run_name="__main__", alter_sys=True)


@contextmanager
def requeued_when_stopped() -> Iterator[Callable[[Path, int], None]]:
    """Requeue the job if Slurm stops the training because of a time limit or a preemption.

    Yields a function that the training calls at its start with the run directory and the step.
    Outside a Slurm job of submitit, a stopped training ends without being requeued.
    """
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm" or "SLURM_JOB_ID" not in os.environ:
        yield lambda run, step: None
        return
    requeue_when_warned()  # The training later replaces this handler.
    try:
        yield begin_life
    except Stopped as stopped:
        # SIGTERM may come from scancel, or from a preemption without a warning signal.
        if stopped.signal == signal.SIGUSR2 or is_preempted():
            requeue_this_job()
        raise


def requeue_when_warned() -> None:
    """Requeue this job as soon as the warning signal arrives."""
    signal.signal(signal.SIGUSR2, lambda *_: requeue_this_job())


def requeue_this_job() -> NoReturn:
    """Requeue this job, and wait until Slurm ends this process.

    Only one task of the job requests the requeue. Slurm requeues a preempted job itself; a second
    requeue would run the job again after its end. The process waits, because the job would end if
    the process exited first.
    """
    job = _this_job()
    if os.environ.get("SLURM_PROCID") == "0" and not is_preempted():
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
        complaint = " ".join(done.stderr.split())
        if done.returncode and "pending" not in complaint:
            print(f"job {job} could not be requeued: {complaint}", flush=True)
            raise SystemExit(128 + signal.SIGUSR2)
    print(f"job {job} is requeued; it resumes when Slurm schedules it again", flush=True)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(END_SECONDS)
    raise SystemExit(128 + signal.SIGUSR2)


def is_preempted() -> bool:
    """Check if Slurm has preempted this job since its last start."""
    show = ["scontrol", "--oneliner", "show", "job", _this_job()]
    description = subprocess.run(show, capture_output=True).stdout.decode(errors="replace")
    times = dict(re.findall(r"(StartTime|PreemptTime)=(\d\d\d\d-\d\d-\d\dT\S+)", description))
    return times.get("PreemptTime", "") >= times.get("StartTime", "~")


def _this_job() -> str:
    """Return the ID of this job for scontrol.

    In a job array, the ID is ARRAY_TASK, because scontrol would apply the plain ID of the last job
    to the complete array.
    """
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def begin_life(run: Path, step: int) -> None:
    """Record in the run directory that this job starts the training at `step`.

    Raises RunError if the last `FRUITLESS_LIVES` starts of the job were at this step, too.
    """
    file, job = run / "lives.json", os.environ["SLURM_JOB_ID"]
    lives = read_json(file, dict[str, list[int]]) if file.exists() else {}
    begun = lives.get(job, [])
    if begun[-FRUITLESS_LIVES:] == [step] * FRUITLESS_LIVES:
        raise RunError(
            f"{run}: no progress: the job started {FRUITLESS_LIVES} times at step {step} ({STEP}) "
            "and saved no later step; save more often (training.checkpoint_every), or request "
            "more time"
        )
    write_json(file, {**lives, job: [*begun, step]})
