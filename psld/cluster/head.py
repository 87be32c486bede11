"""The head process: one Snakemake at a time in a working directory, which goes on after a kill.

Snakemake locks a working directory with files, which stay when Snakemake is killed. Kernel locks
replace them here, because they end with their holder:

    .snakemake/psld/lock          held by the Snakemake that runs
    .snakemake/psld/RUN/alive     held by it, too; its local jobs wait for the end of it
    .snakemake/psld/RUN/jobs      shared by its local jobs (`psld.cluster.watch`)
    .snakemake/psld/RUN/run.json  describes it

A run first ends what an earlier one has left. Local jobs end by themselves; it waits for them.
Snakemake's jobs in Slurm, which share one name, are canceled. Trainings in Slurm have other names
and go on; their launchers return to them.
"""

import ctypes
import fcntl
import os
import platform
import shutil
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from psld.cluster.slurm import active_jobs_named, cancel_jobs_named
from psld.cluster.watch import GRACE_SECONDS, RUN
from psld.config.settings import Settings, read_record, write_record
from psld.utils.errors import PSLDError, RunError
from psld.utils.locks import held_if_free

END_SECONDS = GRACE_SECONDS + 30
"""Time that the local jobs of an ended run may take to end."""


class Run(Settings):
    """A run of Snakemake that executes rules."""

    inode: int
    """That of the run's folder: a copy of the working directory is not this run's."""
    pid: int
    host: str
    slurm_name: str = ""
    """The name of Snakemake's jobs in Slurm; empty until there may be some."""
    ended: bool = False
    """Snakemake ended by itself, after its local jobs."""


_folder: Path | None = None
"""The folder of the run of this process, if it holds the lock."""


def repair_snakemake() -> None:
    """Replace two methods of Snakemake 9; tests/cluster/test_head.py says when they have changed.

    - `lock` of its persistence. Snakemake calls it after planning and before execution, but not
      in dry runs, reports and listings, in the processes of jobs, or with --nolock.
    - `_schedule_reevalutation` of its scheduler. While jobs wait to be started, the scheduler looks
      again a second after each event. Each look is an event, so the threads that wait for the
      second grow with the jobs. Here there is one such thread.
    """
    from snakemake.persistence import PersistenceBase
    from snakemake.scheduling.job_scheduler import JobScheduler

    def look_again_once(scheduler: Any, seconds: float) -> None:
        def look_again() -> None:
            scheduler.will_look_again = False
            scheduler._open_jobs.release()

        if not getattr(scheduler, "will_look_again", False):
            scheduler.will_look_again = True
            threading.Timer(seconds, look_again).start()

    PersistenceBase.lock = _lock
    JobScheduler._schedule_reevalutation = look_again_once


def run_folder() -> Path | None:
    """Return the folder of this Snakemake's run; None with --nolock."""
    return _folder


def record_slurm_name(name: str) -> None:
    """Record the name of the jobs that this Snakemake is about to submit."""
    _update(slurm_name=name)


@contextmanager
def _lock(persistence: Any) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(_sole_run(Path(persistence.path, "psld")))
            persistence.unlock()  # Dry runs warn of lock files that a Snakemake alone has left.
        except (PSLDError, OSError) as error:
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            sys.exit("error: interrupted")
        yield


@contextmanager
def _sole_run(folder: Path) -> Iterator[None]:
    """Be the only run in this folder. Raises RunError if there is another one."""
    global _folder
    with held_if_free(folder / "lock") as is_held:
        if not is_held:
            raise RunError(_refusal(folder))
        _end_with_make()
        for earlier in folder.glob("*/"):
            _end_leftovers(earlier)
            shutil.rmtree(earlier)
        _folder = folder.resolve() / uuid.uuid4().hex
        _folder.mkdir()
        run = Run(inode=_folder.stat().st_ino, pid=os.getpid(), host=platform.node())
        write_record(_folder / "run.json", run)
        (_folder / "jobs").touch()
        with (_folder / "alive").open("w") as alive:
            fcntl.flock(alive, fcntl.LOCK_EX)
            os.environ[RUN] = str(_folder)
            try:
                with _passing_on_interrupts(_folder, alive.fileno()):
                    yield
            finally:
                _update(ended=True)


@contextmanager
def _passing_on_interrupts(run: Path, alive: int) -> Iterator[None]:
    """End local jobs when Snakemake gets SIGINT; Ctrl-C in a terminal reaches them directly, too.

    Jobs get SIGTERM. A second SIGINT would end a training before it has saved.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        (run / "interrupted").touch()
        fcntl.flock(alive, fcntl.LOCK_UN)
        signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield  # A shell's `&` ignores it.
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _update(**changes: Any) -> None:
    """Change the record of this process's run, if it has one."""
    if _folder and (run := read_run(_folder)):
        write_record(_folder / "run.json", run.model_copy(update=changes))


def read_run(folder: Path) -> Run | None:
    """Read the record of a run.

    Return None if there is none, because the run was killed at its start, or if it is of another
    folder, which was copied.
    """
    record = folder / "run.json"
    if not record.exists():
        return None
    run = read_record(Run, record, f"{record}: damaged, or of another version; delete it")
    return run if run.inode == folder.stat().st_ino else None


def _refusal(folder: Path) -> str:
    runs = [run for each in folder.glob("*/") if (run := read_run(each)) and not run.ended]
    holder = f" (process {runs[0].pid} on {runs[0].host})" if runs else ""
    place = folder.resolve().parents[1]
    return f"{place}: another Snakemake{holder} runs here; wait for its end, or end it"


def _end_leftovers(folder: Path) -> None:
    """End what a run has left. Raises RunError if that is not possible."""
    run = read_run(folder)
    if run is None:
        return
    _wait_for_jobs(run, folder / "jobs")
    if run.slurm_name and shutil.which("squeue"):
        _end_slurm_jobs(run)
    elif run.slurm_name and not run.ended:
        raise RunError(
            "jobs of the last run, which was killed, may be in Slurm, and there is no squeue here; "
            f"run the command on a machine with squeue, or delete {folder}"
        )


def _wait_for_jobs(run: Run, lock: Path) -> None:
    """Wait until no local job shares the lock."""
    deadline = time.monotonic() + END_SECONDS
    is_first = True
    with lock.open("a") as jobs:
        while True:
            try:
                return fcntl.flock(jobs, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            if is_first:
                _say(f"waiting for the end of the last run's jobs (process {run.pid}, {run.host})")
                is_first = False
            if time.monotonic() > deadline:
                raise RunError(
                    f"the last run's jobs do not end; fuser {lock} lists them. Is a disk gone?"
                )
            time.sleep(0.1)


def _end_slurm_jobs(run: Run) -> None:
    canceled: set[str] = set()
    try:
        while jobs := active_jobs_named(run.slurm_name):
            if not canceled:
                _say(f"canceling what the last run left in Slurm: job {', '.join(jobs)}")
            if not canceled.issuperset(jobs):
                cancel_jobs_named(run.slurm_name)
            canceled |= set(jobs)
            time.sleep(1)
    except PSLDError as error:
        raise RunError(f"jobs of the last run may still be in Slurm: {error}") from None


def _end_with_make() -> None:
    """Die when `make` is killed: the next `make` must not find this run still going."""
    parent = os.getppid()
    try:
        name = Path(f"/proc/{parent}/comm").read_text().strip()
    except OSError:
        return
    if name in ("make", "gmake"):
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:  # It was killed a moment ago.
            os.kill(os.getpid(), signal.SIGKILL)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
