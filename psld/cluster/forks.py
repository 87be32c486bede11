"""Forked jobs: start short local jobs without importing torch again.

Snakemake starts a process for each job. Most short jobs take less time than the import of torch,
SciPy and matplotlib. A local run thus starts a fork server (`psld.commands.fork_server`), which
imports these packages once. The process of a job, `python -m psld COMMAND`, asks the server for a
fork. The fork runs the job with the arguments, environment, working directory and standard streams
of this process. The process of the job forwards signals to the fork, and exits with the exit status
of the fork. Each job is thus still a separate process, with the same results, failures and reruns.
If no server answers, or if the code has changed since the start of the server, the job imports all
packages itself.
"""

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

FORKS = "PSLD_FORK_SERVER"
"""The environment variable with the folder of the fork server of this run."""
SERVE = "--fork-server"
"""`python -m psld --fork-server FOLDER` starts a fork server."""
COMMANDS = {
    *("train", "train_guide", "train_extractor", "reference", "start"),
    *("sample", "evaluate_cell", "tabulate", "figure", "page"),
}
"""The commands that run in forks, because they need torch or matplotlib."""
THREADS = {"OMP_NUM_THREADS": "1"}
"""Environment variables that a job must have to run in a fork. Libraries read these variables only
once, when the server imports the libraries."""
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
MESSAGE_BYTES = 1 << 20

_servers: list[subprocess.Popen[bytes]] = []
"""The server of this process. The list keeps the standard input of the server open."""


def start_server() -> None:
    """Start the fork server of this run of Snakemake.

    The server exits when its standard input is closed, which happens at the latest when this
    process exits. Raises OSError if this machine does not support a server.
    """
    os.close(os.pidfd_open(os.getpid()))
    folder = tempfile.mkdtemp(prefix="psld-fork-")
    server = subprocess.Popen(
        [sys.executable, "-m", "psld", SERVE, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | THREADS,
        start_new_session=True,  # Ctrl-C must reach a fork only through the process of its job.
    )
    _servers.append(server)
    os.environ[FORKS] = folder


def address(folder: str) -> str:
    """Return the path of a server's socket.

    The path depends on the Python environment and on the modification times of all files of psld.
    """
    package = Path(__file__).parents[1]
    files = sorted(package.rglob("*.py"))
    state = [
        str(Path(sys.prefix).resolve()),
        str(package),
        *(f"{file.stat().st_mtime_ns}" for file in files),
    ]
    return f"{folder}/{hashlib.sha256(repr(state).encode()).hexdigest()[:16]}"


def run_in_fork(words: Sequence[str]) -> None:
    """Run `psld WORD …` in a fork, and exit with the exit status of the fork.

    The function returns only if the command must run in this process instead: if the command is not
    in `COMMANDS`, if it uses more than one thread, or if no server answers.
    """
    folder = os.environ.get(FORKS)
    if not (folder and words and words[0] in COMMANDS and THREADS.items() <= os.environ.items()):
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(address(folder))
            job = json.dumps([words, str(Path.cwd()), dict(os.environ)]).encode()
            socket.send_fds(connection, [job], [0, 1, 2])
            if not (answer := connection.recv(MESSAGE_BYTES)):
                return
            pid = int(answer)

            def forward(number: int, _: FrameType | None) -> None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

            for number in FORWARDED:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, forward)
            status = int(connection.recv(MESSAGE_BYTES) or signal.SIGKILL)
    except OSError:
        return
    if os.WIFSIGNALED(status):
        with contextlib.suppress(OSError):  # The handler of SIGKILL cannot be set.
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.WEXITSTATUS(status))
