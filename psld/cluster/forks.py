"""Forked jobs: start short local jobs without importing torch again.

Snakemake starts a process for each job, and importing torch, SciPy and matplotlib takes longer than
most short jobs. So a local run starts a fork server (`psld.commands.fork_server`), which imports
them once. A job of the run, `python -m psld COMMAND`, asks the server for a fork. The fork runs the
job with the job's arguments, environment, working directory and standard streams. The process that
asked forwards signals to the fork and exits as the fork exits. So each job is still a separate
process, and results, failures and reruns are the same. Without a server that answers, or if the
code has changed since the server started, a job imports everything itself.
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
"""The first argument of `python -m psld` that starts a server; its folder is the second one."""
COMMANDS = {
    *("train", "train_guide", "train_extractor", "reference", "start"),
    *("sample", "evaluate_cell", "tabulate", "figure", "page"),
}
"""The commands that run in forks: those that need torch or matplotlib."""
THREADS = {"OMP_NUM_THREADS": "1"}
"""The environment of forked jobs. Libraries read it once, when the server imports them."""
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
MESSAGE_BYTES = 1 << 20

_servers: list[subprocess.Popen[bytes]] = []
"""Keeps the standard input of the server of this process open."""


def start_server() -> None:
    """Start the fork server of this run of Snakemake.

    This process holds the server's standard input; the server exits when it is closed. Raises
    OSError if this machine cannot have a server.
    """
    os.close(os.pidfd_open(os.getpid()))
    folder = tempfile.mkdtemp(prefix="psld-fork-")
    server = subprocess.Popen(
        [sys.executable, "-m", "psld", SERVE, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | THREADS,
        start_new_session=True,  # Ctrl-C reaches a fork through the process that asked for it.
    )
    _servers.append(server)
    os.environ[FORKS] = folder


def address(folder: str) -> str:
    """Return the path of a server's socket, for this Python and the package as it is now."""
    package = Path(__file__).parents[1]
    files = sorted(package.rglob("*.py"))
    state = [sys.executable, str(package), *(f"{file.stat().st_mtime_ns}" for file in files)]
    return f"{folder}/{hashlib.sha256(repr(state).encode()).hexdigest()[:16]}"


def run_in_fork(words: Sequence[str]) -> None:
    """Run `psld WORD …` in a fork, and exit as the fork exits.

    Return if the command has to run in this process: it is not among `COMMANDS`, needs more than
    one thread, or no server answers.
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
        with contextlib.suppress(OSError):  # SIGKILL has no handler.
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.WEXITSTATUS(status))
