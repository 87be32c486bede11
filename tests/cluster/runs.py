"""A working directory in which Snakemake runs and is killed."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.commands import Finished, run

SNAKEFILE = """
from psld.cluster import slurm
from psld.cluster.head import begin_run

slurm.REFUSED_SECONDS = 0

onstart:
    begin_run()

rule made:
    output: "made"
    shell: config["job"]
"""


JOB = """
import os, signal, sys, time
from pathlib import Path
from psld.cluster import job

def note(event):
    with open("events", "a") as file:
        print(event, os.getpid(), file=file, flush=True)

def terminate(*_):
    while "slow" in sys.argv and not Path("saved").exists():
        time.sleep(0.05)  # a checkpoint
    note("terminated")
    sys.exit(143)

stubborn = "stubborn" in sys.argv
job.GRACE_SECONDS = 1 if stubborn else 60
signal.signal(signal.SIGTERM, signal.SIG_IGN if stubborn else terminate)
signal.signal(signal.SIGINT, signal.SIG_IGN)
note("began")
job.end_with_snakemake(sys.argv[1])
while not (Path("go").exists() or "GO" in os.environ):
    time.sleep(0.05)
Path("made").write_text(str(os.getpid()))
note("ended")
"""


class Folder:
    """A working directory with one rule, whose job waits for the file `go` or for GO."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.job = f"{sys.executable} job.py train"
        self.options: list[str] = []
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    @property
    def command(self) -> list[str]:
        snakemake = [sys.executable, "-m", "snakemake", "--cores", "1", *self.options]
        snakemake += ["--workflow-profile", "none", "--rerun-incomplete", "--nolock"]
        return [*snakemake, "--config", f"job={self.job}"]

    @contextlib.contextmanager
    def started(self) -> Iterator[subprocess.Popen[str]]:
        """Snakemake, in a process group that ends with the test."""
        with (self.path / "first.log").open("w") as log:
            process = subprocess.Popen(
                self.command,
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

    def run(self, *options: str, go: bool = True) -> subprocess.CompletedProcess[str]:
        """Run Snakemake to its end; with `go`, its job does not wait."""
        return subprocess.run(
            [*self.command, *options],
            cwd=self.path,
            env={**self.environment, **({"GO": "1"} if go else {})},
            capture_output=True,
            text=True,
            timeout=300,
        )

    def events(self) -> list[str]:
        events = self.path / "events"
        return events.read_text().splitlines() if events.exists() else []

    def pids(self, event: str) -> list[int]:
        return [int(line.split()[1]) for line in self.events() if line.startswith(event)]

    def names(self) -> list[str]:
        return [line.split()[0] for line in self.events()]


def begun(folder: Path, before: str = "") -> Finished:
    """Begin a run in a folder and end it, without the rest of Snakemake."""
    code = f"{before}\nfrom psld.cluster.head import begin_run\nbegin_run()"
    return run(folder, [sys.executable, "-c", code])


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    def met() -> object:
        assert process.poll() is None, "it ended too early"
        return condition()

    until(met)


def is_running(pid: int) -> bool:
    """Not a zombie either."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def killed(folder: Folder) -> contextlib.ExitStack:
    """A run whose first process was killed while its job was running; the job ends later."""
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(folder.started())
        wait(lambda: folder.pids("began"), process)
        process.kill()
        process.wait()
        return stack.pop_all()
