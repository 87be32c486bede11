"""The head process: one Snakemake at a time in a working directory, which goes on after a kill.

Snakemake's own lock files stay when it is killed, so profiles/default sets `nolock`. Kernel locks
replace them, because they end with their holder:

    .snakemake/psld/lock          held by the Snakemake that runs
    .snakemake/psld/RUN/alive     held by it, too; its local jobs end with it (`psld.cluster.job`)
    .snakemake/psld/RUN/run.json  describes it

A run first cancels the jobs that a killed run has left in Slurm; they share one name. Trainings in
Slurm have other names and go on; their launchers return to them. Local jobs end by themselves.
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
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any, Literal, cast

from psld.cluster.fork_server import start_server
from psld.cluster.job import RUN
from psld.cluster.slurm import active_jobs_named, cancel_jobs_named
from psld.config.settings import Settings, read_record, write_record
from psld.utils.errors import PSLDError, RunError, in_one_line
from psld.utils.locks import held_if_free


class SnakemakeRun(Settings):
    """A run of Snakemake that executes rules."""

    inode: int
    """That of the run's folder: a copy of the working directory is not this run's."""
    pid: int
    host: str
    slurm_name: str = ""
    """The name of Snakemake's jobs in Slurm; empty until there may be some."""
    end: Literal["", "normal", "interrupted"] = ""
    """Empty while it runs, and after a kill."""


_held = ExitStack()
"""The locks of this process, which it keeps until it ends."""
_folder: Path | None = None
"""The folder of the run of this process, if it holds the locks."""


def begin_run(with_fork_server: bool = False) -> None:
    """Be the only run of Snakemake in this working directory; exit with one line if one runs.

    Jobs on this machine are forks of one process `with_fork_server`.

    The Snakefile calls this in `onstart`: after planning and before execution, but not in dry
    runs, reports and listings, or in the processes of jobs.
    """
    try:
        with in_one_line():
            _begin(Path(".snakemake/psld"))
    except KeyboardInterrupt:
        sys.exit("error: interrupted")
    if with_fork_server:
        start_server()
    look_again_once()


def look_again_once() -> None:
    """Replace a method of Snakemake 9's scheduler; tests/cluster/test_head.py says if it changes.

    While jobs wait to be started, the scheduler looks again a second after each event. Each look
    is an event, so the looks grow with the jobs that have ended: with 300 ended and 2,000 waiting,
    they took half a core all the time. Here one look is under way at a time.
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
    """Record the name of the jobs that this Snakemake is about to submit.

    Return the folder of its run; None if the Snakefile does not call `begin_run`.
    """
    _update(slurm_name=name)
    return _folder


def _begin(folder: Path) -> None:
    global _folder
    if not _held.enter_context(held_if_free(folder / "lock")):
        place = folder.resolve().parents[1]
        runs = filter(None, map(read_run, folder.glob("*/")))
        who = next((f" (process {run.pid} on {run.host})" for run in runs), "")
        raise RunError(f"{place}: another Snakemake{who} runs here; wait for its end, or end it")
    for earlier in folder.glob("*/"):
        _end_slurm_jobs(earlier)
        # Its jobs look for it by its name. NFS keeps a file in it while one of them has it open.
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
        """End local jobs; Ctrl-C in a terminal reaches them directly, too.

        They get SIGTERM. A second SIGINT would end a training before it has saved.
        """
        atexit.unregister(end)
        end("interrupted")
        # After all that Snakemake still prints.
        atexit.register(print, "interrupted; the same command goes on", file=sys.stderr)
        signal.default_int_handler(number, frame)

    atexit.register(end, "normal")
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)  # unless a shell's `&` ignores it


def _update(**changes: Any) -> None:
    """Change the record of this process's run, if it has one."""
    if _folder and (run := read_run(_folder)):
        write_record(_folder / "run.json", run.model_copy(update=changes))


def read_run(folder: Path) -> SnakemakeRun | None:
    """Read the record of a run.

    Return None if there is none, because the run was killed at its start, or if it is of another
    folder, which was copied.
    """
    record = folder / "run.json"
    if not record.exists():
        return None
    run = read_record(SnakemakeRun, record, f"{record}: damaged, or of another version; delete it")
    return run if run.inode == folder.stat().st_ino else None


def _end_slurm_jobs(folder: Path) -> None:
    """Cancel what a run has left in Slurm. Raises RunError if that is not possible."""
    run = read_run(folder)
    if run is None or not run.slurm_name or (run.end and not shutil.which("squeue")):
        return
    try:
        if jobs := active_jobs_named(run.slurm_name):
            text = f"canceling what the last run left in Slurm: job {', '.join(jobs)}"
            print(text, file=sys.stderr, flush=True)
        while active_jobs_named(run.slurm_name):
            cancel_jobs_named(run.slurm_name)
            time.sleep(1)
    except PSLDError as error:
        raise RunError(
            f"jobs of the last run may still be in Slurm: {error}; run the command on a machine "
            f"that reaches Slurm, or delete {folder}"
        ) from None
