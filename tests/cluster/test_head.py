"""A folder allows one run of Snakemake at a time, and a new run cleans up after killed runs."""

import fcntl
import inspect
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake.scheduling.job_scheduler import JobScheduler

from psld.cluster import head
from psld.config.settings import write_record
from tests.cluster.commands import Commands
from tests.cluster.runs import begun, is_running, killed, until, wait
from tests.commands import command, refused, run, succeeded

KEEP = """
import errno, os
remove = os.rmdir
def rmdir(path, **options):
    if "kept" in str(path):
        raise OSError(errno.ENOTEMPTY, "Directory not empty")
    remove(path, **options)
os.rmdir = rmdir
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("job", "end"), [("train slow", ["terminated"]), ("train stubborn", []), ("launch", [])]
)
def test_a_killed_run_resumes_at_once_and_its_old_job_ends(folder, job, end):
    """A job that ignores SIGTERM is killed. A launcher gets no SIGTERM, because it would then
    cancel its training in Slurm."""
    folder.job = f"{sys.executable} job.py {job}"
    with killed(folder):
        succeeded(folder.run())
        (folder.path / "saved").touch()
        first, second = folder.pids("began")
        until(lambda: not is_running(first))
    assert sorted(folder.names()) == ["began", "began", "ended", *end]
    assert folder.pids("terminated") == [first for _ in end]
    assert (folder.path / "made").read_text() == str(second)


def test_a_job_of_a_removed_run_does_nothing(tmp_path, monkeypatch):
    """The shell of the job may still have been alive when the next run began."""
    monkeypatch.setenv("PSLD_RUN", f"{tmp_path}/gone")
    refused(run(tmp_path, command("prepare", "dataset=digits")), 1, "has ended")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_second_snakemake_is_refused(folder):
    with folder.started() as first:
        wait(lambda: folder.pids("began"), first)
        second = folder.run()
        assert second.returncode == 1
        (error,) = [line for line in second.stderr.splitlines() if "rror" in line]
        assert error.startswith(f"error: {folder.path}: another Snakemake (process {first.pid}")
        assert "Traceback" not in second.stdout + second.stderr
        assert "waiting" not in succeeded(folder.run("--dry-run")).stderr
        (folder.path / "go").touch()
        assert first.wait(timeout=30) == 0, (folder.path / "first.log").read_text()
    assert folder.names() == ["began", "ended"]


# --- the beginning of a run -----------------------------------------------------------------------


@pytest.fixture
def machine(commands) -> Commands:
    """A machine without Slurm. Snakemake's Slurm plugin calls `which sacct`."""
    commands.answer("which", exit_code=1)
    return commands


def leave(folder: Path, name: str, **fields: str | int) -> Path:
    """Create the folder of a killed run whose jobs in Slurm have the name psld-7."""
    path = folder / ".snakemake/psld" / name
    path.mkdir(parents=True)
    run = {"inode": path.stat().st_ino, "pid": 1, "host": "here", "slurm_name": "psld-7"}
    write_record(path / "run.json", head.SnakemakeRun(**(run | fields)))
    return path


def test_runs_without_slurm_jobs_are_removed(machine, tmp_path):
    """NFS keeps a folder while a job has an open file in the folder. The job must not find the
    folder.

    The folder of a copied run has no jobs, because its jobs belong to the original. A link belongs
    to no run.
    """
    left = [leave(tmp_path, "ended", end="normal"), leave(tmp_path, "local", slurm_name="")]
    left += [leave(tmp_path, "copy", inode=1), leave(tmp_path, "kept", slurm_name="")]
    left += [tmp_path / ".snakemake/psld" / name for name in ("unborn", "link")]
    left[-2].mkdir()
    left[-1].symlink_to(tmp_path)
    (tmp_path / "Snakefile").touch()
    assert "Slurm" not in succeeded(begun(tmp_path, KEEP)).stderr
    assert not [path for path in left if path.exists()]
    assert (tmp_path / "Snakefile").exists()
    records = [*tmp_path.glob(".snakemake/psld/*/run.json")]
    assert [head.read_run(path.parent).end for path in records if "kept" not in str(path)] == [
        "normal"
    ]


def test_jobs_of_an_earlier_run_are_canceled_until_none_is_left(machine, tmp_path):
    leave(tmp_path, "left", end="interrupted")
    machine.answer("scancel", first=f"echo >> {tmp_path}/asked; echo >> {tmp_path}/asked")
    listed = (
        f"[ $(/bin/cat {tmp_path}/asked 2>/dev/null | /usr/bin/wc -l) -ge 4 ] || echo 42 RUNNING"
    )
    machine.answer("squeue", first=listed)
    said = succeeded(begun(tmp_path)).stderr
    assert said.count("canceling the Slurm jobs of the last run: 42\n") == 1
    assert machine.calls("scancel") == ["--me --name=psld-7"] * 2


def test_a_run_is_refused_without_slurm_if_jobs_may_be_left(machine, tmp_path):
    leave(tmp_path, "left")
    words = ("may still be in Slurm: squeue: No such file", "or delete .snakemake/psld/left")
    refused(begun(tmp_path), 1, *words)


def test_a_second_run_is_refused_with_the_name_of_the_first(tmp_path):
    place = leave(tmp_path, "first")
    with (place.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(
            begun(tmp_path), 1, f"{tmp_path}: another Snakemake (process 1 on here) is running here"
        )
    assert place.exists()


def test_a_damaged_record_of_a_run_is_bad_input(tmp_path):
    (leave(tmp_path, "killed") / "run.json").write_text("{}")
    refused(
        begun(tmp_path), 2, "killed/run.json: damaged, or written by another version; delete it"
    )


# --- the inside of Snakemake ----------------------------------------------------------------------


def test_the_scheduler_of_snakemake_is_unchanged():
    """If this fails, Snakemake has changed; see `look_again_once` in psld/cluster/head.py."""
    schedules = inspect.getsource(JobScheduler.schedule)
    assert "self._open_jobs.acquire()" in schedules
    assert "self._schedule_reevalutation(" in schedules
    assert "threading.Timer(" in inspect.getsource(JobScheduler._schedule_reevalutation)


def test_the_scheduler_has_one_timer(monkeypatch):
    kept = JobScheduler._schedule_reevalutation
    monkeypatch.setattr(JobScheduler, "_schedule_reevalutation", kept)
    head.look_again_once()
    scheduler = SimpleNamespace(_open_jobs=threading.Semaphore(0))
    before = threading.active_count()
    for _ in range(100):
        JobScheduler._schedule_reevalutation(scheduler, 0.2)
    assert threading.active_count() == before + 1
    assert scheduler._open_jobs.acquire(timeout=10)
    JobScheduler._schedule_reevalutation(scheduler, 0)
    assert scheduler._open_jobs.acquire(timeout=10), "it can look again"
