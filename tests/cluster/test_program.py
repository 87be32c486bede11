"""A program of one's own that is launched: on this machine, and as a job."""

import re
import signal
import sys
from pathlib import Path

import pytest

from psld.cluster import launcher as launching
from psld.cluster.launcher import Launcher
from psld.utils.errors import RunError
from tests.cluster.launching import launch_settings
from tests.commands import command, refused, run, started, succeeded

COUNTS = """
import os, signal, sys, time
from pathlib import Path
saved, stops = Path("runs/step"), []
signal.signal(signal.SIGTERM, lambda *_: stops.append(1))
step = int(saved.read_text()) if saved.exists() else 0
begun = ["from step", step, os.environ.get("RANK"), *sys.argv[1:]]
print(" ".join(map(str, begun)) + "\\n", end="", flush=True)  # one write: ranks share the pipe
while step < 5 or not Path("go").exists():
    step += 1
    saved.write_text(str(step))
    if stops:
        sys.exit()
    time.sleep(0.05)
Path("DONE").touch()
"""


def launch(*words: str, program: tuple[str, ...] = ("count.py",)) -> list[str]:
    options = ("done=DONE", "runs=runs", *words)
    return command("launch", *options, "--", sys.executable, *program)


@pytest.fixture
def folder(commands, tmp_path) -> Path:
    (tmp_path / "count.py").write_text(COUNTS)
    return tmp_path


def test_it_is_stopped_and_goes_on_and_is_not_run_again(folder):
    """Its `--help` is not that of the launch. A second launch waits for the end of the first."""
    with started(folder, launch()) as first:
        assert first.stdout.readline() == "from step 0 None\n"
        with started(folder, launch(program=("count.py", "--help"))) as second:
            assert "another program is running there" in second.stdout.readline()
            first.send_signal(signal.SIGTERM)
            _, complaint = first.communicate(timeout=60)
            [step] = re.findall(r"error: stopped by SIGTERM; step (\d+) is saved; ", complaint)
            assert first.returncode == 128 + signal.SIGTERM
            (folder / "go").touch()
            printed, complaint = second.communicate(timeout=60)
    assert (second.returncode, complaint) == (0, "")
    assert printed.startswith(f"from step {step} None --help\n")
    assert succeeded(run(folder, launch())).stdout == ""


def test_after_a_kill_of_the_launch_another_one_waits_for_the_program(folder):
    with started(folder, launch()) as first:
        assert first.stdout.readline() == "from step 0 None\n"
        first.kill()
        with started(folder, launch()) as second:
            assert "another program is running there" in second.stdout.readline()
            (folder / "go").touch()
            assert second.communicate(timeout=60) == ("", "")


@pytest.mark.parametrize(
    ("program", "exit_code", "complaint"),
    [
        ("pass", 1, "ended with exit code 0, but without DONE"),
        ("exit(3)", 1, "ended with exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", 1, "ended with signal 9"),
        (
            "import os, time; os.kill(os.getppid(), 15); time.sleep(60)",
            143,
            "SIGTERM; no step is saved; ",
        ),
    ],
)
def test_one_that_ends_otherwise_is_one_line(folder, program, exit_code, complaint):
    refused(run(folder, launch(program=("-c", program))), exit_code, complaint)


def test_a_folder_is_not_what_it_makes(folder):
    (folder / "DONE").mkdir()
    refused(run(folder, launch()), 2, "launch: done=DONE: is a folder; give a file")


def test_a_script_that_does_not_name_its_shell_is_one_line(folder):
    script = folder / "script"
    script.write_text("true\n")
    script.chmod(0o755)
    words = command("launch", "done=DONE", "runs=runs", "--", "./script")
    refused(run(folder, words), 2, "Exec format error: './script'")


def test_several_ranks_have_the_usual_variables(folder):
    (folder / "go").touch()
    printed = succeeded(run(folder, launch("tasks_per_node=2"))).stdout
    assert {line.split()[3] for line in printed.splitlines() if "from step" in line} == {"0", "1"}


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
