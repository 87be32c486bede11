"""Real runs of Snakemake in one working directory: killed, restarted, and two at once."""

import inspect
import shutil
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake.scheduling.job_scheduler import JobScheduler

from psld.cluster import head
from psld.config.settings import write_record
from psld.utils.errors import RunError
from tests.cluster.runs import Folder, is_running, killed, until, wait
from tests.commands import command, refused, run

KEEP = """
import errno, os
remove = os.rmdir
def rmdir(path, **options):
    if "killed" in str(path):
        raise OSError(errno.ENOTEMPTY, "Directory not empty")
    remove(path, **options)
os.rmdir = rmdir
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_at_once_and_its_job_ends(folder):
    folder.job += " slow"
    with killed(folder):
        again = folder.run()
        assert again.returncode == 0, again.stderr
        (folder.path / "saved").touch()
        first, second = folder.pids("began")
        until(lambda: not is_running(first))
    assert sorted(folder.names()) == ["began", "began", "ended", "terminated"]
    assert f"terminated {first}" in folder.events()
    assert (folder.path / "made").read_text() == str(second)
    assert "Nothing to be done" in folder.run().stderr


def test_a_folder_that_the_file_system_keeps_stops_no_run(folder):
    """NFS keeps it while a job of the killed run has a file in it open. The job must not find it.

    Nor does a link, which is of nobody.
    """
    left = folder.path / ".snakemake/psld/killed"
    left.mkdir(parents=True)
    (left / "alive").touch()
    (left.parent / "link").symlink_to(folder.path)
    text = (folder.path / "Snakefile").read_text()
    (folder.path / "Snakefile").write_text(f"{KEEP}{text}")
    ended = folder.run()
    assert (ended.returncode, folder.names()) == (0, ["began", "ended"]), ended.stderr
    assert "Traceback" not in ended.stderr
    assert not left.exists()
    assert (folder.path / "Snakefile").exists()


@pytest.mark.slow
@pytest.mark.parametrize("job", ["train stubborn", "launch"])
def test_a_job_that_ignores_the_request_is_killed_and_a_launcher_gets_none(folder, job):
    """At SIGTERM a launcher would cancel its training in Slurm."""
    folder.job = f"{sys.executable} job.py {job}"
    with killed(folder):
        again = folder.run()
        assert again.returncode == 0, again.stderr
        first, _ = folder.pids("began")
        until(lambda: not is_running(first))
    assert folder.names() == ["began", "began", "ended"]


def test_a_job_of_a_run_that_was_cleared_away_does_nothing(tmp_path, monkeypatch):
    """Its shell may have been alive when the next run began."""
    monkeypatch.setenv("PSLD_RUN", f"{tmp_path}/gone")
    refused(run(tmp_path, command("prepare", "dataset=digits")), 1, "has ended")
    assert list(tmp_path.iterdir()) == []


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


@pytest.mark.slow
def test_a_copy_of_the_working_directory_leaves_the_original_alone(folder):
    with folder.started() as process:
        wait(lambda: folder.pids("began"), process)
        shutil.copytree(folder.path, folder.path.with_name("copy"))
        copy = Folder(folder.path.with_name("copy"))
        assert copy.run().returncode == 0
        assert is_running(process.pid)
        assert is_running(folder.pids("began")[0])
    assert folder.names() == ["began"]


@pytest.fixture
def left(tmp_path) -> Path:
    """The folder of a run that was killed; its jobs in Slurm are called psld-7."""
    path = tmp_path / "left"
    path.mkdir()
    record(path)
    return path


def record(path: Path, **fields: str) -> None:
    run = {"inode": path.stat().st_ino, "pid": 1, "host": "here", "slurm_name": "psld-7"}
    write_record(path / "run.json", head.SnakemakeRun(**(run | fields)))


def test_the_run_of_a_copied_folder_is_no_run(left, commands):
    """Its jobs in Slurm are the original's."""
    commands.answer("squeue", "42 RUNNING None\n")
    assert head.read_run(left).slurm_name == "psld-7"
    copy = shutil.copytree(left, left.with_name("copy"))
    assert head.read_run(copy) is None
    head._end_slurm_jobs(copy)
    assert commands.calls("squeue") == commands.calls("scancel") == []


def test_jobs_of_an_earlier_run_are_canceled_until_they_are_gone(
    left, commands, monkeypatch, capsys
):
    commands.answer("scancel", first=f"echo >> {left}/asked; echo >> {left}/asked")
    listed = f"[ $(/bin/cat {left}/asked 2>/dev/null | /usr/bin/wc -l) -ge 4 ] || echo 42 RUNNING"
    commands.answer("squeue", first=listed)
    monkeypatch.setattr(head.time, "sleep", lambda seconds: None)
    head._end_slurm_jobs(left)
    assert commands.calls("scancel") == ["--me --name=psld-7"] * 2
    said = "canceling what the last run left in Slurm: job 42"
    assert capsys.readouterr().err.count(said) == 1


@pytest.mark.parametrize(
    ("fields", "fails"),
    [({}, True), ({"end": "normal"}, False), ({"slurm_name": ""}, False)],
)
def test_a_machine_without_slurm_refuses_if_jobs_may_be_left(left, commands, fields, fails):
    record(left, **fields)
    if fails:
        with pytest.raises(RunError, match=rf"may still be in Slurm: squeue: .* or delete {left}"):
            head._end_slurm_jobs(left)
    else:
        head._end_slurm_jobs(left)


def test_a_damaged_record_of_a_run_is_bad_input(folder):
    record = folder.path / ".snakemake/psld/killed/run.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    ended = folder.run()
    assert (ended.returncode, folder.names()) == (2, [])
    assert "killed/run.json: damaged, or of another version; delete it" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_scheduler_of_snakemake_looks_again_as_it_did():
    """A failure says: Snakemake has changed; see `look_again_once` in psld/cluster/head.py."""
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
