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
from contextlib import ExitStack, contextmanager, suppress
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
PR_SET_PDEATHSIG = 1


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

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


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


def record_slurm_name(name: str) -> Path | None:
    """Record the name of the jobs that this Snakemake is about to submit.

    Return the folder of its run; None with --nolock.
    """
    _update(slurm_name=name)
    return _folder


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
            place = folder.resolve().parents[1]
            holders = [f" ({run})" for run in map(read_run, folder.glob("*/")) if run]
            who = f"another Snakemake{''.join(holders[:1])}"
            raise RunError(f"{place}: {who} runs here; wait for its end, or end it")
        _end_with_make()
        for earlier in folder.glob("*/"):
            _end_leftovers(earlier)
            shutil.rmtree(earlier)
        _folder = folder.resolve() / uuid.uuid4().hex
        _folder.mkdir()
        run = Run(inode=_folder.stat().st_ino, pid=os.getpid(), host=platform.node())
        write_record(_folder / "run.json", run)
        (_folder / "jobs").touch()
        alive = (_folder / "alive").open("w")
        fcntl.flock(alive, fcntl.LOCK_EX)
        os.environ[RUN] = str(_folder)

        def interrupt(number: int, frame: FrameType | None) -> None:
            """End local jobs; Ctrl-C in a terminal reaches them directly, too.

            They get SIGTERM. A second SIGINT would end a training before it has saved.
            """
            (_folder / "interrupted").touch()
            alive.close()
            signal.default_int_handler(number, frame)

        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, interrupt)  # unless a shell's `&` ignores it
        try:
            yield
        finally:
            alive.close()
            _update(ended=True)


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


def _end_leftovers(folder: Path) -> None:
    """End what a run has left. Raises RunError if that is not possible."""
    run = read_run(folder)
    if run is None:
        return
    _wait_for_jobs(run, folder / "jobs")
    if run.slurm_name and shutil.which("squeue"):
        _end_slurm_jobs(run.slurm_name)
    elif run.slurm_name and not run.ended:
        raise RunError(
            "jobs of the last run, which was killed, may be in Slurm, and there is no squeue here; "
            f"run the command on a machine with squeue, or delete {folder}"
        )


def _wait_for_jobs(run: Run, lock: Path) -> None:
    """Wait until no local job shares the lock."""
    with lock.open("a") as jobs:
        for attempt in range(int(10 * END_SECONDS)):
            with suppress(BlockingIOError):
                return fcntl.flock(jobs, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if attempt == 0:
                _say(f"waiting for the end of the last run's jobs ({run})")
            time.sleep(0.1)
    raise RunError(f"the last run's jobs do not end; fuser {lock} lists them. Is a disk gone?")


def _end_slurm_jobs(name: str) -> None:
    said = False
    try:
        while jobs := active_jobs_named(name):
            if not said:
                _say(f"canceling what the last run left in Slurm: job {', '.join(jobs)}")
            said = True
            cancel_jobs_named(name)
            time.sleep(1)
    except PSLDError as error:
        raise RunError(f"jobs of the last run may still be in Slurm: {error}") from None


def _end_with_make() -> None:
    """Die when `make` is killed: the next `make` must not find this run still going."""
    parent = os.getppid()
    with suppress(OSError):
        if Path(f"/proc/{parent}/comm").read_text().strip() in ("make", "gmake"):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # It was killed a moment ago.
                os.kill(os.getpid(), signal.SIGKILL)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
