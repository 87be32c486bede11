"""Inside a training's Slurm job: its ranks, their exit codes, and the lives of the job.

A job lives until its time limit, a preemption or a lost node ends it, and then it runs again.
Before a time limit or a preemption, it requeues itself. The number of lives has no limit as long as
each of them makes progress.
"""

import os
import re
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from psld.config.settings import Settings
from psld.training.stop import Stopped
from psld.utils.errors import RunError
from psld.utils.files import read_json, write_json

LAUNCH = "PSLD_LAUNCH"
"""The variable that names the launch of a job: the jobs of one launch share one count of lives."""
FRUITLESS_LIVES = 2
"""Lives of a launch that may begin at the same step."""
END_SECONDS = 600
"""Seconds that a process waits for Slurm to end it, after its job was requeued."""
FIRST_SIGNAL = 128
"""Exit codes from here on mean that a signal ended the rank; it did not fail."""
FAULTS = (
    "uncorrectable ecc error",
    "uncorrectable nvlink error",
    "unspecified launch failure",
    "nccl error",
    "gloo",
)
"""Parts of torch's messages, in lower case, about a fault of a GPU or of another rank."""


class Outcome(Settings):
    """The end of a rank that was not killed, as the rank writes it to a file."""

    exit_code: int


class Life(Settings):
    """The beginning of a life, as lives.json keeps it."""

    launch: str
    step: int


@dataclass(frozen=True)
class RankCommand:
    """Run `psld COMMAND ARGUMENT …` as one rank of a job.

    A rank that ends by itself writes its exit code. A rank writes nothing if it was killed, or if
    its GPU or the exchange with another rank failed. So the launcher can tell a failed training,
    which would fail again, from an interrupted one.
    """

    words: tuple[str, ...]
    """The command and its arguments."""
    folder: Path
    launch: str

    def __call__(self) -> None:
        requeue_when_warned()
        os.environ[LAUNCH] = self.launch
        # Without core binding, ranks that each use all cores are very slow.
        os.environ.setdefault("OMP_NUM_THREADS", os.environ.get("SLURM_CPUS_PER_TASK", "1"))
        job, rank = os.environ["SLURM_JOB_ID"], int(os.environ["SLURM_PROCID"])
        outcome = outcome_file(self.folder, job, rank)
        outcome.unlink(missing_ok=True)  # of an earlier life
        sys.argv = ["psld", *self.words]
        try:
            runpy.run_module("psld", run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
            if code < FIRST_SIGNAL:
                write_json(outcome, {"exit_code": code})
            raise
        except Exception as error:
            if not _is_fault(error):
                write_json(outcome, {"exit_code": 1})
            raise
        write_json(outcome, {"exit_code": 0})


def outcome_file(folder: Path, job: str, rank: int) -> Path:
    return folder / f"{job}_{rank}_outcome.json"


def read_outcomes(folder: Path, job: str) -> dict[int, int]:
    """The exit code of each rank that ended by itself."""
    files = {int(file.name.split("_")[1]): file for file in folder.glob(f"{job}_*_outcome.json")}
    return {rank: read_json(file, Outcome).exit_code for rank, file in files.items()}


def _is_fault(error: Exception) -> bool:
    """Recognize a fault of a GPU or of another rank. Running out of memory would happen again."""
    # By name: this module imports no torch.
    kinds = {kind.__name__ for kind in type(error).__mro__}
    is_described = any(sign in str(error).lower() for sign in FAULTS)
    return "DistError" in kinds or ("RuntimeError" in kinds and is_described)


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
    """Record a life that begins at this step.

    Raises RunError if the last lives of the same launch began there too.
    """
    launch = os.environ.get(LAUNCH) or os.environ["SLURM_JOB_ID"]
    if read_lives(run, launch)[-FRUITLESS_LIVES:] == [step] * FRUITLESS_LIVES:
        raise RunError(
            f"{run}: no progress in {FRUITLESS_LIVES} lives, which began at step {step} and saved "
            "no checkpoint; save more often (training.checkpoint_every) or ask for more time"
        )
    lives = [*_all_lives(run), Life(launch=launch, step=step)]
    write_json(run / "lives.json", [life.model_dump() for life in lives])


def read_lives(run: Path, launch: str) -> list[int]:
    """The steps at which the lives of a launch began."""
    return [life.step for life in _all_lives(run) if life.launch == launch]


def _all_lives(run: Path) -> list[Life]:
    file = run / "lives.json"
    return read_json(file, list[Life]) if file.exists() else []
