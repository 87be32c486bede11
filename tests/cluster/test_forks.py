"""The fork server: a job in a fork ends like a job in a separate process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from psld.cluster import forks

HOLDER = """
import os, sys
from psld.cluster import forks, head
head.begin_run(with_fork_server=True)
print(os.environ[forks.FORKS], flush=True)
sys.stdin.read()
"""
"""The code of a process that starts a server, as Snakemake does, and ends it when standard input
ends."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The folder of a running server."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        cwd=tmp_path_factory.mktemp("run"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        folder = Path(holder.stdout.readline().strip())
        wait_for(lambda: [*folder.iterdir()])
        yield folder
        holder.stdin.close()
        wait_for(lambda: not folder.exists())


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def page(server: Path, **changes: str) -> subprocess.Popen:
    """Start `psld page` of a grid that does not exist."""
    environment = {**os.environ, forks.FORKS: str(server), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "psld", "page", "grid_name=none"],
        env=environment | changes,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def forks_of(server: Path) -> list[int]:
    """Return the processes of a server in the order of their starts: the server, a keeper, its job,
    …"""
    words = os.fsencode(server)
    return sorted(
        int(each.parent.name)
        for each in Path("/proc").glob("[0-9]*/cmdline")
        if words in read_bytes(each)
    )


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # The process has just ended.
        return b""


@pytest.fixture
def waiting(server, tmp_path):
    """A job whose fork waits, because a pipe replaces the lock that Snakemake holds."""
    os.mkfifo(tmp_path / "alive")
    with page(server, PSLD_RUN=str(tmp_path)) as job:
        wait_for(lambda: len(forks_of(server)) == 3)
        yield job
        job.kill()
    wait_for(lambda: len(forks_of(server)) == 1)


def test_a_fork_has_the_output_and_the_exit_code_of_its_job(server):
    job = page(server)
    errors = job.communicate()[1]
    assert job.returncode == 2
    assert "error: configs/grid/none.yaml: no such grid" in errors
    assert "pydantic" not in errors, "the process that asked imports nothing else"


@pytest.mark.parametrize("changes", [{"OMP_NUM_THREADS": "2"}, {forks.FORKS: "/none"}])
def test_a_job_without_a_server_or_with_more_threads_is_not_forked(server, changes):
    job = page(server, **changes)
    errors = job.communicate()[1]
    assert job.returncode == 2
    assert "error: configs/grid/none.yaml: no such grid" in errors
    assert "pydantic" in errors


def test_a_job_after_a_change_of_the_code_is_not_forked(server):
    before = forks.address(str(server))
    file = Path(forks.__file__)
    times = file.stat()
    try:
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
        assert forks.address(str(server)) != before
    finally:
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert forks.address(str(server)) == before


def test_a_killed_job_ends_its_fork(server, waiting):
    waiting.kill()
    wait_for(lambda: len(forks_of(server)) == 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_reaches_the_fork(server, waiting, number):
    waiting.send_signal(number)
    assert waiting.wait() == -number


def test_a_job_has_the_exit_status_of_its_fork(server, waiting):
    os.kill(forks_of(server)[-1], signal.SIGKILL)
    assert waiting.wait() == -signal.SIGKILL
