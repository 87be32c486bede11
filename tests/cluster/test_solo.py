"""Real runs of Snakemake in one working directory: killed, restarted, and two at once."""

import shutil
import sys

import pytest

from psld.cluster import solo
from tests.cluster.runs import MAKEFILE, Folder, is_running, killed, wait


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


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/usr/bin/python -m psld train model=demo/cld", True),
        ("/usr/bin/python /venv/bin/psld train model=demo/cld", True),
        ("/usr/bin/python -m torch.distributed.run --nproc-per-node=2 -m psld train", True),
        ("sbatch --parsable -D /home/me/psld", False),
        ("/usr/bin/python /venv/bin/snakemake --directory /home/me/psld", False),
    ],
)
def test_a_folder_named_psld_makes_no_command_of_psld(line, expected):
    """An interrupt must not end sbatch, which has the working directory among its options."""
    assert solo._is_psld(line.split()) is expected
