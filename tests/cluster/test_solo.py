"""Real runs of Snakemake in one working directory: killed, restarted, and two at once."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from psld.cluster import solo
from psld.utils.errors import RunError
from tests.cluster.commands import Commands

SNAKEFILE = """
from psld.cluster import slurm, solo
from psld.cluster.executor import repair_slurm_executor

slurm.REFUSED_SECONDS = 0
solo.GRACE_SECONDS = config["grace"]
solo.hold_working_directory()
repair_slurm_executor()

rule made:
    output: "made"
    shell: config["job"]
"""

JOB = """
import os, signal, sys, time
from pathlib import Path

def note(event):
    with open("events", "a") as file:
        print(event, os.getpid(), file=file, flush=True)

def terminate(*_):
    time.sleep(0.5)  # a checkpoint
    note("terminated")
    sys.exit(143)

stubborn = "stubborn" in sys.argv
signal.signal(signal.SIGTERM, signal.SIG_IGN if stubborn else terminate)
signal.signal(signal.SIGINT, signal.SIG_IGN)
if Path("events").exists():
    for line in Path("events").read_text().splitlines():
        stat = Path("/proc", line.split()[1], "stat")
        if stat.exists() and ") Z " not in stat.read_text():
            note("met")
note("began")
while not (Path("go").exists() or "GO" in os.environ):
    time.sleep(0.05)
Path("made").write_text(str(os.getpid()))
note("ended")
"""

MAKEFILE = """
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
demo:
\t@PATH="$$PATH" $(SNAKEMAKE)
"""


class Folder:
    """A working directory with one rule, whose job waits for the file `go` or for GO."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.job = f"{sys.executable} job.py"
        self.grace = 10
        self.options: list[str] = []
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    @property
    def command(self) -> list[str]:
        snakemake = [sys.executable, "-m", "snakemake", "--cores", "1", *self.options]
        snakemake += ["--workflow-profile", "none", "--rerun-incomplete"]
        return [*snakemake, "--config", f"grace={self.grace}", f"job={self.job}"]

    @contextlib.contextmanager
    def started(self, command: list[str] | None = None) -> Iterator[subprocess.Popen[str]]:
        """Snakemake, in a process group that ends with the test."""
        with (self.path / "first.log").open("w") as log:
            process = subprocess.Popen(
                command or self.command,
                cwd=self.path,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                text=True,
            )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            for pid in self.pids("began"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()

    def run(
        self, *options: str, go: bool = True, command: list[str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run Snakemake to its end; its job does not wait if told so."""
        return subprocess.run(
            command or [*self.command, *options],
            cwd=self.path,
            env={**self.environment, **({"GO": "1"} if go else {})},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def events(self) -> list[str]:
        events = self.path / "events"
        return events.read_text().splitlines() if events.exists() else []

    def pids(self, event: str) -> list[int]:
        return [int(line.split()[1]) for line in self.events() if line.startswith(event)]

    def names(self) -> list[str]:
        return [line.split()[0] for line in self.events()]


def wait(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Not a zombie either."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


@pytest.fixture
def folder(tmp_path) -> Folder:
    path = tmp_path / "work"
    path.mkdir()
    (path / "Snakefile").write_text(SNAKEFILE)
    (path / "job.py").write_text(JOB)
    return Folder(path)


def killed(folder: Folder, command: list[str] | None = None) -> contextlib.ExitStack:
    """A run whose first process was killed while its job runs; the job goes on."""
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(folder.started(command))
        wait(lambda: folder.pids("began"), process)
        process.kill()
        process.wait()
        assert is_running(folder.pids("began")[0])
        return stack.pop_all()


@pytest.mark.parametrize("session", ["", "setsid --wait "], ids=["same session", "own session"])
def test_a_killed_run_goes_on_after_the_end_of_its_job(folder, session):
    folder.job = session + folder.job
    with killed(folder):
        again = folder.run()
    assert again.returncode == 0, again.stderr
    first, second = folder.pids("began")
    assert folder.events() == [
        f"began {first}",
        f"terminated {first}",
        f"began {second}",
        f"ended {second}",
    ]
    assert (folder.path / "made").read_text() == str(second)
    (said,) = [line for line in again.stderr.splitlines() if line.startswith("ending ")]
    assert str(first) in said
    assert "Nothing to be done" in folder.run().stderr


def test_a_job_that_ignores_the_request_is_killed(folder):
    folder.job += " stubborn"
    folder.grace = 1
    with killed(folder):
        again = folder.run()
    assert again.returncode == 0, again.stderr
    assert folder.names() == ["began", "began", "ended"]


def test_a_launcher_is_killed_without_a_request(folder):
    """At SIGTERM it would cancel its training in Slurm."""
    (folder.path / "job.py").rename(folder.path / "psld")
    folder.job = f"{sys.executable} psld launch where=slurm"
    with killed(folder):
        again = folder.run()
    assert again.returncode == 0, again.stderr
    assert folder.names() == ["began", "began", "ended"]


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
        assert "ending" not in dry.stderr
        assert folder.run("--list-rules").returncode == 0

        (folder.path / "go").touch()
        assert first.wait(timeout=30) == 0, (folder.path / "first.log").read_text()
    assert folder.names() == ["began", "ended"]


def test_a_dry_run_after_a_kill_ends_nothing(folder):
    with killed(folder):
        dry = folder.run("--dry-run")
        assert dry.returncode == 0, dry.stderr
        assert "cannot be locked" not in dry.stdout + dry.stderr
        assert is_running(folder.pids("began")[0])


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
    (tmp_path / "psld.lock").mkdir()
    with pytest.raises(OSError, match=r"psld\.lock"), solo._sole_run(tmp_path):
        pass


@pytest.fixture
def slurm(folder, tmp_path) -> Commands:
    """Stand-ins for the commands of a cluster, whose job runs on for a second after scancel."""
    commands = Commands(tmp_path / "bin")
    for command in ("scontrol", "sinfo", "sacctmgr"):
        commands.answer(command)
    commands.answer("sshare", "lab")
    commands.answer("sbatch", "7", first="touch queued")
    commands.answer("squeue", first="[ ! -e queued ] || echo 7 RUNNING")
    commands.answer("scancel", first="(sleep 1; rm -f queued) >/dev/null 2>&1 &")
    folder.environment["PATH"] = f"{commands.folder}{os.pathsep}{os.environ['PATH']}"
    return commands


ON_SLURM = (
    *("--executor", "slurm", "--jobs", "1", "--default-resources"),
    *("slurm_account=lab", "slurm_partition=cpu", "runtime=1", "mem_mb=1"),
)


def test_an_interrupt_of_snakemake_alone_ends_its_local_jobs(folder, slurm):
    """From a terminal, Ctrl-C reaches the jobs directly; this one ignores SIGINT."""
    local = SNAKEFILE.replace("rule made:", "rule made:\n    localrule: True")
    (folder.path / "Snakefile").write_text(local)
    folder.job, folder.options = f"{folder.job} psld", list(ON_SLURM)
    with folder.started() as process:
        wait(lambda: folder.pids("began"), process)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 1
    assert folder.names() == ["began", "terminated"]
    assert "Traceback" not in (folder.path / "first.log").read_text(), "it waits for local jobs"


def test_an_interrupt_cancels_jobs_in_slurm_and_does_not_wait(folder, slurm):
    """The plugin alone would end when it asks for their states, after 40 seconds."""
    folder.job, folder.options = "true", list(ON_SLURM)
    with folder.started() as process:
        wait(lambda: "Slurm job 7" in (folder.path / "first.log").read_text(), process)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 1
    name = solo._latest_run(folder.path / ".snakemake").slurm_name
    assert slurm.calls("scancel") == [f"--me --name={name}"]


def test_a_refusal_of_slurm_ends_snakemake_and_leaves_the_jobs(folder, slurm):
    slurm.answer(
        "squeue",
        first="[ ! -e queued ] || { echo Protocol authentication error >&2; exit 1; }",
    )
    folder.job, folder.options = "true", [*ON_SLURM, "--slurm-init-seconds-before-status-checks=1"]
    refused = folder.run()
    assert refused.returncode == 1
    assert refused.stderr.count("left as they are") == 1, refused.stderr
    assert "Traceback" not in refused.stderr
    assert slurm.calls("scancel") == []


def test_jobs_of_a_killed_run_have_left_slurm_before_the_next_writes(folder, slurm):
    job, folder.job, folder.options = folder.job, "true", list(ON_SLURM)
    with folder.started() as process:
        wait(lambda: (folder.path / "queued").exists(), process)
        process.kill()
    name = solo._latest_run(folder.path / ".snakemake").slurm_name
    assert f"--job-name {name} " in slurm.calls("sbatch")[0]

    folder.options, folder.job = [], f"[ ! -e queued ] && {job}"
    again = folder.run()
    assert again.returncode == 0, again.stderr
    assert "canceling what the last run left in Slurm: job 7" in again.stderr
    assert slurm.calls("scancel") == [f"--me --name={name}"]


def test_without_squeue_a_run_does_not_start_next_to_jobs_of_a_killed_one(folder, monkeypatch):
    with killed(folder):
        pass
    snakemake = folder.path / ".snakemake"
    run = solo._latest_run(snakemake)
    monkeypatch.setattr(solo.shutil, "which", lambda command: None)
    with pytest.raises(RunError, match="there is no squeue here"):
        solo._end_leftovers(run.model_copy(update={"slurm_name": "some"}), snakemake)
    solo._end_leftovers(run.model_copy(update={"slurm_name": "some", "ended": True}), snakemake)


def test_processes_on_another_machine_are_mentioned(folder, capsys):
    with killed(folder):
        pass
    snakemake = folder.path / ".snakemake"
    solo._end_leftovers(
        solo._latest_run(snakemake).model_copy(update={"host": "login2"}), snakemake
    )
    assert "killed on login2" in capsys.readouterr().err
