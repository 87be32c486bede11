"""Inside a job: its end with its Snakemake; a launch's ranks in Slurm, and the lives of its job.

Snakemake names the folder of its run in the variable PSLD_RUN (`psld.cluster.head`), and holds the
kernel lock `alive` in it. Kernel locks end with their holders, even after kill -9.

A launch's job in Slurm lives until its time limit, a preemption or a lost node ends it, and then
it runs again. Before a time limit or a preemption, it requeues itself. The number of lives has no
limit as long as each of them makes progress.
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
"""The environment variable with the folder of the run that started this process."""
RECORDS = "PSLD_RECORDS"
"""The environment variable with the digests of the records that Snakemake planned for a job in
Slurm."""
GRACE_SECONDS = 60
"""Time between SIGTERM, at which a training saves a checkpoint, and SIGKILL."""
FRUITLESS_LIVES = 2
"""Lives of a job that may begin at the same step."""
END_SECONDS = 600
"""Seconds that a process waits for Slurm to end it, after its job was requeued."""


def end_with_snakemake(command: str) -> None:
    """Make this process end when the Snakemake that has started it ends; return at once.

    It ends as on SIGTERM, so a training saves a checkpoint. `psld launch` leaves its job in Slurm
    if Snakemake was killed, and cancels it if Snakemake was interrupted.
    """
    run = os.environ.get(RUN)
    if not run:
        return
    try:
        alive = os.open(f"{run}/alive", os.O_RDONLY)
    except FileNotFoundError:
        sys.exit("error: the Snakemake that started this job has ended, and another one runs")
    threading.Thread(target=_end, args=(run, alive, command == "launch"), daemon=True).start()


def _end(run: str, alive: int, is_launcher: bool) -> None:
    fcntl.flock(alive, fcntl.LOCK_SH)  # waits for the end of Snakemake
    try:
        was_interrupted = b'"interrupted"' in Path(run, "run.json").read_bytes()
    except FileNotFoundError:  # The next run has cleared it away, after a kill.
        was_interrupted = False
    if is_launcher and not was_interrupted:
        os._exit(1)
    print("the Snakemake that started this job has ended; so this job ends", file=sys.stderr)
    os.kill(os.getpid(), signal.SIGTERM)
    if not was_interrupted:
        time.sleep(GRACE_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)


def run_rank(words: list[str]) -> None:
    """Run `psld WORD …` as one rank of a job."""
    requeue_when_warned()
    # Without core binding, ranks that each use all cores are very slow.
    os.environ.setdefault("OMP_NUM_THREADS", os.environ.get("SLURM_CPUS_PER_TASK", "1"))
    sys.argv = ["psld", *words]
    runpy.run_module("psld", run_name="__main__", alter_sys=True)


@contextmanager
def requeued_when_stopped() -> Iterator[Callable[[Path, int], None]]:
    """Requeue the job if Slurm stops the training before a time limit or a preemption.

    Yields a function for the training to call when it begins, with run directory and step.
    Outside a Slurm job of submitit, a stopped training just ends.
    """
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm" or "SLURM_JOB_ID" not in os.environ:
        yield lambda run, step: None
        return
    requeue_when_warned()  # Until the training handles the signal, there is nothing to save.
    try:
        yield begin_life
    except Stopped as stopped:
        # A preemption without a warning begins with SIGTERM, and so does scancel.
        if stopped.signal == signal.SIGUSR2 or is_preempted():
            requeue_this_job()
        raise


def requeue_when_warned() -> None:
    """Make the warning signal requeue this job at once."""
    signal.signal(signal.SIGUSR2, lambda *_: requeue_this_job())


def requeue_this_job() -> NoReturn:
    """Requeue this job, once for all its tasks, and wait for Slurm to end this life.

    Slurm requeues a preempted job by itself; to requeue it twice would run it again after its end.
    A process that leaves before Slurm ends it would end the job.
    """
    job = _this_job()
    if os.environ.get("SLURM_PROCID") == "0" and not is_preempted():
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
        complaint = " ".join(done.stderr.split())
        if done.returncode and "pending" not in complaint:
            print(f"job {job} could not be requeued: {complaint}", flush=True)
            raise SystemExit(128 + signal.SIGUSR2)
    print(f"job {job} goes on when it is scheduled again", flush=True)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(END_SECONDS)
    raise SystemExit(128 + signal.SIGUSR2)


def is_preempted() -> bool:
    """Check if Slurm preempts this job now, in this life."""
    show = ["scontrol", "--oneliner", "show", "job", _this_job()]
    description = subprocess.run(show, capture_output=True).stdout.decode(errors="replace")
    times = dict(re.findall(r"(StartTime|PreemptTime)=(\d\d\d\d-\d\d-\d\dT\S+)", description))
    return times.get("PreemptTime", "") >= times.get("StartTime", "~")


def _this_job() -> str:
    """The job's name for scontrol. The number of an array's last job also means the whole array."""
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def begin_life(run: Path, step: int) -> None:
    """Record that a life of this job begins at this step of the training in the run directory.

    Raises RunError if the last lives of the job began there too.
    """
    file, job = run / "lives.json", os.environ["SLURM_JOB_ID"]
    lives = read_json(file, dict[str, list[int]]) if file.exists() else {}
    begun = lives.get(job, [])
    if begun[-FRUITLESS_LIVES:] == [step] * FRUITLESS_LIVES:
        raise RunError(
            f"{run}: no progress in {FRUITLESS_LIVES} lives, which began at step {step} ({STEP}) "
            "and saved no more; save more often (training.checkpoint_every) or ask for more time"
        )
    write_json(file, {**lives, job: [*begun, step]})
