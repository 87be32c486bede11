"""The head process: at most one Snakemake per working directory, and recovery after a kill.

Snakemake's own lock files remain after a kill, so profiles/default sets `nolock`. psld uses kernel
locks instead, because the kernel releases a lock when the process that holds the lock exits:

    .snakemake/psld/lock          lock that the running Snakemake holds
    .snakemake/psld/RUN/alive     lock that the running Snakemake also holds; local jobs end when
                                  this lock is released (`psld.cluster.job`)
    .snakemake/psld/RUN/run.json  describes the run

At its start, a run cancels the remaining Slurm jobs of a killed run, which all have the same name.
Slurm jobs of trainings have other names, so they are not canceled. If the new run starts the
launcher of a training again, the launcher finds the running job of this training and waits for it.
Local jobs of a killed run end by themselves.
"""

import atexit
import fcntl
import os
import platform
import shutil
import signal
import sys
import threading
import time
import uuid
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Literal, cast

from psld.cluster.forks import start_server
from psld.cluster.job import RUN
from psld.cluster.slurm import active_jobs_named, cancel_jobs_named
from psld.config.settings import Settings, read_record, write_record
from psld.utils.errors import PSLDError, RunError, in_one_line
from psld.utils.locks import held_if_free


class SnakemakeRun(Settings):
    """A run of Snakemake that executes rules."""

    inode: int
    """Inode of the run's folder. In a copy of the working directory, the folder has a different
    inode."""
    pid: int
    host: str
    slurm_name: str = ""
    """The name of the run's jobs in Slurm; empty before the first submission."""
    end: Literal["", "normal", "interrupted"] = ""
    """How the run ended. Empty while Snakemake runs, and if Snakemake was killed."""


_held = ExitStack()
"""The locks that this process holds until it exits."""
_folder: Path | None = None
"""The folder of this process's run; None if this process does not hold the locks."""


def begin_run(with_fork_server: bool = False) -> None:
    """Register this Snakemake as the only run in the working directory.

    Exits if another Snakemake is running there. If `with_fork_server` is True, jobs on this machine
    are forks of one process.

    The Snakefile calls this function in `onstart`: after planning and before execution. Dry runs,
    reports, listings and the processes of jobs do not call it.
    """
    try:
        with in_one_line():
            _begin(Path(".snakemake/psld"))
    except KeyboardInterrupt:
        sys.exit("error: interrupted")
    if with_fork_server:
        with suppress(OSError):  # Without a fork server, jobs import all packages themselves.
            start_server()
    look_again_once()


def look_again_once() -> None:
    """Allow only one pending reevaluation in the scheduler of Snakemake 9.

    While jobs wait, the scheduler reevaluates them one second after each event. A reevaluation is
    itself an event, so the number of pending reevaluations grows with the number of ended jobs.
    With 300 ended and 2,000 waiting jobs, they permanently use half a CPU core.
    tests/cluster/test_head.py fails if Snakemake changes the method that is replaced here.
    """
    from snakemake.scheduling.job_scheduler import JobScheduler

    def replaced(scheduler: Any, seconds: float) -> None:
        def look_again() -> None:
            scheduler.will_look_again = False
            scheduler._open_jobs.release()

        if not getattr(scheduler, "will_look_again", False):
            scheduler.will_look_again = True
            threading.Timer(seconds, look_again).start()

    cast(Any, JobScheduler)._schedule_reevalutation = replaced


def record_slurm_name(name: str) -> Path | None:
    """Record the Slurm name of the jobs that this Snakemake is about to submit.

    Returns the folder of the run; None if the Snakefile does not call `begin_run`.
    """
    _update(slurm_name=name)
    return _folder


def _begin(folder: Path) -> None:
    global _folder
    if not _held.enter_context(held_if_free(folder / "lock")):
        place = folder.resolve().parents[1]
        runs = filter(None, map(read_run, folder.glob("*/")))
        who = next((f" (process {run.pid} on {run.host})" for run in runs), "")
        raise RunError(
            f"{place}: another Snakemake{who} is running here; wait until it ends, or stop it"
        )
    for earlier in folder.glob("*/"):
        _end_slurm_jobs(earlier)
        # Jobs of the earlier run exit if the folder is missing. Rename the folder before it is
        # deleted, because NFS keeps files that a job has open.
        shutil.rmtree(earlier.rename(earlier.with_suffix(".old")), ignore_errors=True)
    _folder = folder.resolve() / uuid.uuid4().hex
    _folder.mkdir()
    run = SnakemakeRun(inode=_folder.stat().st_ino, pid=os.getpid(), host=platform.node())
    write_record(_folder / "run.json", run)
    alive = _held.enter_context((_folder / "alive").open("w"))
    fcntl.flock(alive, fcntl.LOCK_EX)
    os.environ[RUN] = str(_folder)

    def end(how: str) -> None:
        _update(end=how)
        alive.close()

    def interrupt(number: int, frame: FrameType | None) -> None:
        """End the local jobs of this run on SIGINT.

        The jobs receive SIGTERM when the lock is released. Ctrl-C in a terminal also sends SIGINT
        to the jobs, and a second SIGINT would end a training before it saves a checkpoint.
        """
        atexit.unregister(end)
        end("interrupted")
        # Print this after the last messages of Snakemake.
        atexit.register(print, "interrupted; run the same command again to resume", file=sys.stderr)
        signal.default_int_handler(number, frame)

    atexit.register(end, "normal")
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)  # Background processes of a shell ignore SIGINT.


def _update(**changes: Any) -> None:
    """Update the record of this process's run. Without a run, do nothing."""
    if _folder and (run := read_run(_folder)):
        write_record(_folder / "run.json", run.model_copy(update=changes))


def read_run(folder: Path) -> SnakemakeRun | None:
    """Read the record of a run.

    Returns None if the folder is a copy, or if the record is missing because the run was killed at
    its start.
    """
    record = folder / "run.json"
    if not record.exists():
        return None
    run = read_record(
        SnakemakeRun, record, f"{record}: damaged, or written by another version; delete it"
    )
    return run if run.inode == folder.stat().st_ino else None


def _end_slurm_jobs(folder: Path) -> None:
    """Cancel the remaining Slurm jobs of a run. Raises RunError if this is impossible."""
    run = read_run(folder)
    if run is None or not run.slurm_name or (run.end and not shutil.which("squeue")):
        return
    try:
        if jobs := active_jobs_named(run.slurm_name):
            text = f"canceling the Slurm jobs of the last run: {', '.join(jobs)}"
            print(text, file=sys.stderr, flush=True)
        while active_jobs_named(run.slurm_name):
            cancel_jobs_named(run.slurm_name)
            time.sleep(1)
    except PSLDError as error:
        raise RunError(
            f"jobs of the last run may still be in Slurm: {error}; run the command on a machine "
            f"with access to Slurm, or delete {folder}"
        ) from None
