"""Real runs of Snakemake in one working directory: killed, restarted, and two at once."""

import inspect
import shutil
import sys
import threading
from types import SimpleNamespace

import pytest
from snakemake.api import Workflow
from snakemake.persistence import PersistenceBase
from snakemake.scheduling.job_scheduler import JobScheduler

from psld.cluster import head
from psld.utils.errors import RunError
from tests.cluster.runs import MAKEFILE, Folder, is_running, killed, wait
from tests.commands import command, refused, run


def test_a_killed_run_goes_on_after_the_end_of_its_job(folder):
    folder.job += " slow"
    log = folder.path / "first.log"
    with killed(folder), folder.started() as again:
        wait(lambda: "waiting for the end of the last run's jobs" in log.read_text(), again)
        for name in ("saved", "go"):
            (folder.path / name).touch()
        assert again.wait(timeout=60) == 0, log.read_text()
    first, second = folder.pids("began")
    assert folder.events() == [
        f"began {first}",
        f"terminated {first}",
        f"began {second}",
        f"ended {second}",
    ]
    assert (folder.path / "made").read_text() == str(second)
    assert log.read_text().count("waiting for") == 1
    assert "Nothing to be done" in folder.run().stderr


@pytest.mark.parametrize("job", ["train stubborn", "launch"])
def test_a_job_that_ignores_the_request_is_killed_and_a_launcher_gets_none(folder, job):
    """At SIGTERM a launcher would cancel its training in Slurm."""
    folder.job = f"{sys.executable} job.py {job}"
    with killed(folder):
        again = folder.run()
    assert again.returncode == 0, again.stderr
    assert folder.names() == ["began", "began", "ended"]


def test_a_job_of_a_run_that_was_cleared_away_does_nothing(tmp_path, monkeypatch):
    """Its shell may have been alive when the next run began."""
    monkeypatch.setenv("PSLD_RUN", f"{tmp_path}/gone")
    refused(run(tmp_path, command("prepare", "dataset=digits")), 1, "has ended")
    assert list(tmp_path.iterdir()) == []


def test_jobs_that_do_not_end_stop_the_next_run(folder, monkeypatch, capsys):
    with folder.started() as process:
        wait(lambda: folder.pids("began"), process)
        [earlier] = (folder.path / ".snakemake/psld").glob("*/")
        monkeypatch.setattr(head, "END_SECONDS", 0.3)
        with pytest.raises(RunError, match=rf"do not end; fuser {earlier}/jobs lists them"):
            head._end_leftovers(earlier)
        assert capsys.readouterr().err.count("waiting for the end of the last run's jobs") == 1


@pytest.mark.slow
def test_two_at_once(folder):
    with folder.started() as first:
        wait(lambda: folder.pids("began"), first)
        for _ in range(2):
            second = folder.run()
            assert second.returncode == 1
            (error,) = [line for line in second.stderr.splitlines() if "rror" in line]
            assert error.startswith(f"error: {folder.path}: another Snakemake (process {first.pid}")
            assert "Traceback" not in second.stdout + second.stderr

        dry = folder.run("--dry-run")
        assert dry.returncode == 0, dry.stderr
        assert "waiting" not in dry.stderr
        assert folder.run("--list-rules").returncode == 0

        (folder.path / "go").touch()
        assert first.wait(timeout=30) == 0, (folder.path / "first.log").read_text()
    assert folder.names() == ["began", "ended"]


def test_make_killed_alone(folder):
    (folder.path / "Makefile").write_text(MAKEFILE)
    make = ["make", "demo", f"SNAKEMAKE={' '.join(folder.command[:-1])} 'job={folder.job}'"]
    with killed(folder, make):
        again = folder.run(command=make)
    assert again.returncode == 0, again.stderr
    assert folder.names() == ["began", "terminated", "began", "ended"]


def test_a_copy_of_the_working_directory_leaves_the_original_alone(folder):
    with folder.started() as process:
        wait(lambda: folder.pids("began"), process)
        shutil.copytree(folder.path, folder.path.with_name("copy"))
        copy = Folder(folder.path.with_name("copy"))
        assert copy.run().returncode == 0
        assert is_running(process.pid)
        assert is_running(folder.pids("began")[0])
    assert folder.names() == ["began"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "lock").mkdir()
    with pytest.raises(OSError, match="lock"), head._sole_run(tmp_path):
        pass


# --- repairs of Snakemake itself ------------------------------------------------------------------


@pytest.fixture
def _repaired(monkeypatch) -> None:
    for kind, name in ((PersistenceBase, "lock"), (JobScheduler, "_schedule_reevalutation")):
        monkeypatch.setattr(kind, name, getattr(kind, name))
    head.repair_snakemake()


def test_snakemake_has_what_is_repaired():
    """A failure says: Snakemake has changed, see `repair_snakemake` in psld/cluster/head.py."""
    changed = "Snakemake has changed; see repair_snakemake in psld/cluster/head.py: "
    executes = inspect.getsource(Workflow.execute)
    assert "with self.persistence.lock():" in executes, f"{changed}what locks the folder?"
    schedules = inspect.getsource(JobScheduler.schedule)
    assert "self._open_jobs.acquire()" in schedules, f"{changed}what does the scheduler wait for?"
    assert "self._schedule_reevalutation(" in schedules, f"{changed}what looks again for jobs?"
    looks_again = inspect.getsource(JobScheduler._schedule_reevalutation)
    assert "threading.Timer(" in looks_again, f"{changed}is there still one thread for each event?"


@pytest.mark.usefixtures("_repaired")
def test_the_scheduler_has_one_timer():
    scheduler = SimpleNamespace(_open_jobs=threading.Semaphore(0))
    before = threading.active_count()
    for _ in range(100):
        JobScheduler._schedule_reevalutation(scheduler, 0.2)
    assert threading.active_count() == before + 1
    assert scheduler._open_jobs.acquire(timeout=10)
    JobScheduler._schedule_reevalutation(scheduler, 0)
    assert scheduler._open_jobs.acquire(timeout=10), "it can look again"
    assert not scheduler._open_jobs.acquire(blocking=False)
