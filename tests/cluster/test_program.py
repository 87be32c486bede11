"""A program of one's own that is launched: on this machine, and as a job."""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from psld.cluster import launcher as launching
from psld.cluster.job import run_program
from psld.cluster.launcher import Launcher
from psld.utils.errors import RunError, explained
from tests.cluster.launching import launch_settings
from tests.commands import command, run, started, succeeded

WAITS = """
import os, sys, time
from pathlib import Path
print("rank", os.environ.get("RANK"), *sys.argv[1:], flush=True)
while not Path("go").exists():
    time.sleep(0.05)
Path("DONE").touch()
"""


def launch(*words: str) -> list[str]:
    options = ("done=DONE", "runs=runs", *words)
    return command("launch", *options, "--", sys.executable, "wait.py", "--help")


@pytest.fixture
def folder(commands, tmp_path) -> Path:
    (tmp_path / "wait.py").write_text(WAITS)
    return tmp_path


def test_after_a_kill_of_the_launch_another_one_waits_for_the_program(folder):
    """And does not run it again. Its `--help` is not that of the launch."""
    with started(folder, launch()) as first:
        assert first.stdout.readline() == "rank None --help\n"
        first.kill()
        with started(folder, launch()) as second:
            assert "another program is running there" in second.stdout.readline()
            (folder / "go").touch()
            assert second.communicate(timeout=60) == ("", "")
    assert second.returncode == 0


RANKS = """
import os, signal, subprocess, sys
# Not by print: the signal may arrive within the other one.
signal.signal(signal.SIGTERM, lambda *_: os.write(1, b"still saving\\n"))
wait = "import time; time.sleep(600)"
rank = subprocess.Popen([sys.executable, "-c", wait], start_new_session=True)
print(rank.pid, flush=True)
rank.wait()
"""


def test_a_second_interrupt_kills_the_ranks_too(folder):
    """They are sessions of their own, as torchrun's."""
    (folder / "wait.py").write_text(RANKS)
    with started(folder, launch()) as program:
        rank = int(program.stdout.readline())
        try:
            program.send_signal(signal.SIGINT)
            assert program.stdout.readline() == "still saving\n"
            os.kill(rank, 0)
            program.send_signal(signal.SIGINT)
            program.communicate(timeout=60)
            assert program.returncode == 128 + signal.SIGINT
            assert ended(rank)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(rank, signal.SIGKILL)


def test_a_second_interrupt_kills_what_a_shell_has_left(folder):
    """The shell ends at the first one."""
    (folder / "wait.py").write_text(RANKS.replace("start_new_session=True", ""))
    words = command("launch", "done=DONE", "runs=runs", "--", "/bin/sh", "-c")
    with started(folder, [*words, f"{sys.executable} wait.py; true"]) as program:
        program.stdout.readline()
        program.send_signal(signal.SIGINT)
        assert program.stdout.readline() == "still saving\n"
        time.sleep(1)
        begun = time.monotonic()
        program.send_signal(signal.SIGINT)
        program.wait(timeout=90)
        assert time.monotonic() - begun < 30
    assert program.returncode == 128 + signal.SIGINT


def ended(number: int) -> bool:
    """Wait until a process has ended, at most for a minute."""
    stat = Path(f"/proc/{number}/stat")
    for _ in range(600):
        try:
            if stat.read_text().rpartition(")")[2].split()[0] in "ZX":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
def test_several_ranks_have_the_usual_variables(folder):
    (folder / "go").touch()
    printed = succeeded(run(folder, launch("tasks_per_node=2"))).stdout
    ranks = {line.split()[1] for line in printed.splitlines() if line.startswith("rank")}
    assert ranks == {"0", "1"}


def test_one_that_ends_otherwise_is_one_line(commands, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def fails(*words: str) -> str:
        with pytest.raises((RunError, OSError)) as caught:
            run_program([*words], Path("runs"), Path("DONE"))
        return explained(caught.value)

    shell = ("/bin/sh", "-c")
    assert fails(*shell, ":") == (1, "/bin/sh: ended with exit code 0, but without DONE")
    assert fails(*shell, "kill -9 $$") == (1, "/bin/sh: ended with signal 9; its output says why")
    script = Path("script")
    script.write_text("true\n")
    script.chmod(0o755)
    assert fails("./script") == (2, "[Errno 8] Exec format error: './script'")


def test_its_job_is_another_one_if_its_words_are_others(slurm, tmp_path, monkeypatch):
    """And one that ends without `done` is not repeated, whatever it has saved."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launching, "LATE_SECONDS", 0)
    output = Path("out/DONE")

    def launcher(word: str) -> Launcher:
        words = (f"done={output}", "runs=runs/mine")
        return Launcher(launch_settings(*words, command=("true", word)), Path("runs/mine"), output)

    monkeypatch.setattr(Launcher, "_wait", lambda _: "COMPLETED")
    complaint = "42 ended with exit code 0, but without out/DONE"
    for _ in range(2):
        with pytest.raises(RunError, match=complaint):
            launcher("a b").finish()
    assert len(slurm.calls("sbatch")) == 1
    slurm.answer("scancel", first=f"/bin/mv {slurm.folder}/sbatch.calls {tmp_path}")
    with pytest.raises(RunError, match=complaint):
        launcher("a").finish()
    assert len(slurm.calls("scancel")) == len(slurm.calls("sbatch")) == 1
    [folder] = (tmp_path / "runs" / "mine" / "launches").iterdir()
    assert folder.name.startswith("out-DONE-")
