"""One Snakemake run at a time in a working directory; after a kill, the same command goes on.

Snakemake locks a working directory with files, which stay when Snakemake is killed. A kernel lock
on `.snakemake/psld.lock` replaces them: it ends with the Snakemake process. A run that gets the
lock first ends what a killed run has left:

- Processes on this machine. Every process that a run starts, directly or not, has the name of the
  run in the environment variable PSLD_RUNS.
- Snakemake's jobs in Slurm, which share one name. Trainings in Slurm have other names and go on;
  their launcher returns to them.

`.snakemake/psld.run.json` describes the latest run.

SIGINT for Snakemake alone ends its local jobs, too: Ctrl-C in a terminal reaches them directly.

This file depends on the inside of Snakemake 9: it replaces the method `lock` of its persistence
class. Snakemake calls it after planning and before execution, but not in dry runs, reports and
listings, in the processes of jobs, or with --nolock.
"""

import ctypes
import os
import platform
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from pydantic import Field

from psld.cluster.slurm import active_jobs_named, cancel_jobs_named
from psld.config.settings import Settings, read_record, write_record
from psld.utils.errors import PSLDError, RunError
from psld.utils.locks import held_if_free

GRACE_SECONDS = 60
"""Time between SIGTERM, at which a training writes a checkpoint, and SIGKILL."""
KILL_SECONDS = 30
"""Time that a process may need to end after SIGKILL."""
MARK = "PSLD_RUNS"
"""The environment variable with the names of the runs that a process belongs to."""


class Run(Settings):
    """A run of Snakemake that executes rules."""

    name: str = Field(pattern="^[0-9a-f]{32}$")
    folder: int
    """The inode of .snakemake: a copy of the working directory is not this run's directory."""
    pid: int
    host: str
    slurm_job: str
    """The Slurm job that Snakemake itself runs in; empty outside Slurm."""
    slurm_name: str = ""
    """The name of Snakemake's jobs in Slurm; empty until there may be some."""
    ended: bool = False
    """Snakemake ended by itself, after its local jobs."""


def hold_working_directory() -> None:
    """Make Snakemake hold the kernel lock, instead of its lock files, while it executes."""
    from snakemake import persistence

    # Persistence: before Snakemake 9.20.
    kind: Any = getattr(persistence, "PersistenceBase", None) or persistence.Persistence
    kind.lock = _lock


def record_slurm_name(folder: Path, name: str) -> None:
    """Record the name of the jobs that this Snakemake is about to submit, unless --nolock is on."""
    run = _latest_run(folder)
    if run and (run.pid, run.host, run.ended) == (os.getpid(), platform.node(), False):
        write_record(_record(folder), run.model_copy(update={"slurm_name": name}))


@contextmanager
def _lock(persistence: Any) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(_sole_run(Path(persistence.path)))
            persistence.unlock()  # Dry runs warn of lock files that an older version left.
        except (PSLDError, OSError) as error:
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            sys.exit("error: interrupted")
        yield


@contextmanager
def _sole_run(folder: Path) -> Iterator[None]:
    """Be the only run in this folder. Raises RunError if there is another one."""
    with held_if_free(folder / "psld.lock") as is_held:
        latest = _latest_run(folder)
        if not is_held:
            raise RunError(_refusal(folder, latest))
        _end_with_make()
        if latest:
            _end_leftovers(latest, folder)
        run = Run(
            name=uuid.uuid4().hex,
            folder=folder.stat().st_ino,
            pid=os.getpid(),
            host=platform.node(),
            slurm_job=os.environ.get("SLURM_JOB_ID", ""),
        )
        write_record(_record(folder), run)
        os.environ[MARK] = f"{os.environ.get(MARK, '')} {run.name}".strip()
        try:
            with _passing_on_interrupts(run):
                yield
        finally:
            latest = _latest_run(folder) or run
            write_record(_record(folder), latest.model_copy(update={"ended": True}))


@contextmanager
def _passing_on_interrupts(run: Run) -> Iterator[None]:
    """End the commands of this run with SIGTERM when Snakemake gets SIGINT.

    SIGTERM has the effect of Ctrl-C. A second SIGINT, after that of a terminal, would end a
    training before it has saved. Commands of Slurm and shells are left alone: scancel must not be
    killed, and a shell waits for its command.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        for pid, words in _processes(run).items():
            if _is_psld(words):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        signal.default_int_handler(number, frame)

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # A shell's `&` ignores it.
        yield
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _record(folder: Path) -> Path:
    return folder / "psld.run.json"


def _latest_run(folder: Path) -> Run | None:
    record = _record(folder)
    if not record.exists():
        return None
    run = read_record(Run, record, f"{record}: damaged, or of another version; delete it")
    return run if run.folder == folder.stat().st_ino else None


def _refusal(folder: Path, latest: Run | None) -> str:
    holder = ""
    if latest and not latest.ended:
        gone = latest.host == platform.node() and not Path(f"/proc/{latest.pid}").exists()
        holder = "" if gone else f" (process {latest.pid} on {latest.host})"
    return f"{folder.parent}: another Snakemake{holder} runs here; wait for its end, or end it"


def _end_leftovers(run: Run, folder: Path) -> None:
    """End what a run has left. Raises RunError if that is not possible."""
    if run.host != platform.node() and not run.ended:
        _say(
            f"the last run was killed on {run.host}; its processes there may still run. If one of "
            "them trains, this run waits for it"
        )
    _end_processes(run)
    if run.slurm_name and shutil.which("squeue"):
        _end_jobs(run)
    elif run.slurm_name and not run.ended:
        raise RunError(
            "jobs of the last run, which was killed, may be in Slurm, and there is no squeue here; "
            f"run the command on a machine with squeue, or delete {_record(folder)}"
        )


def _end_processes(run: Run) -> None:
    terminated: set[int] = set()
    started = time.monotonic()
    while left := _processes(run):
        waited = time.monotonic() - started
        named = ", ".join(f"{pid} ({Path(words[0]).name})" for pid, words in left.items())
        if not terminated:
            _say(f"ending what the last run (process {run.pid}) left running: {named}")
        if waited > GRACE_SECONDS + KILL_SECONDS:
            raise RunError(f"the last run's processes {named} do not end; is a disk gone?")
        for pid, words in left.items():
            # `psld launch` cancels its Slurm job at SIGTERM, but not at SIGKILL.
            kill = waited > GRACE_SECONDS or (_is_psld(words) and "launch" in words)
            if kill or pid not in terminated:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL if kill else signal.SIGTERM)
        terminated |= set(left)
        time.sleep(0.1)


def _processes(run: Run) -> dict[int, list[str]]:
    """The command lines of a run's processes on this machine that have not ended."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            lines = os.fsdecode((process / "environ").read_bytes()).split("\0")
            words = os.fsdecode((process / "cmdline").read_bytes()).split("\0")
        except OSError:  # It has ended, or is another user's.
            continue
        environment = dict(line.split("=", 1) for line in lines if "=" in line)
        # A job that Slurm started on this machine is Slurm's to end.
        is_local = environment.get("SLURM_JOB_ID", run.slurm_job) == run.slurm_job
        if (
            run.name in environment.get(MARK, "").split()
            and is_local
            and int(process.name) != os.getpid()
        ):
            found[int(process.name)] = words
    return found


def _is_psld(words: list[str]) -> bool:
    """Recognize `python -m psld`, also of torchrun, and the script; not a folder of that name."""
    return "psld" in words or any(Path(word).name == "psld" for word in words[:2])


def _end_jobs(run: Run) -> None:
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
