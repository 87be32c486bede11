"""The fork server of a run: local jobs without the seconds in which Python imports torch.

Snakemake starts a process for each job, and to import torch, SciPy and matplotlib takes longer than
most short jobs. So a local run starts one process that has imported them. A job of the run,
`python -m psld COMMAND`, asks it for a fork, which becomes the job: it gets the job's words,
environment, folder and standard streams. The process that asked forwards signals to the fork, and
ends as the fork ends. Every job is still a process of its own, so results, failures and reruns are
the same. If no server answers, a job imports everything itself.

The server listens at a socket in a private temporary folder. It has one thread and never
initializes CUDA, because neither threads nor CUDA survive a fork.
"""

import contextlib
import gc
import hashlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import FrameType

COMMANDS = {
    *("train", "train_guide", "train_extractor", "reference", "start"),
    *("sample", "evaluate_cell", "tabulate", "figure", "page"),
}
"""The commands that run in forks: those of the rules that need torch or matplotlib."""
IMPORTS = (
    *("psld.commands.metrics", "psld.commands.report", "psld.commands.sampling"),
    *("psld.commands.training", "psld.evaluation.evaluation", "psld.metrics.extraction"),
    *("psld.report.page", "psld.report.plots", "psld.report.table", "psld.sampling.sample"),
    *("psld.training.run", "torch._dynamo"),  # The first step of torch's optimizers imports it.
)
"""The modules that the server imports: what these commands need."""
THREADS = {"OMP_NUM_THREADS": "1"}
"""The environment of forked jobs. Libraries read it once, when the server imports them."""
FOLDER = "PSLD_FORK_SERVER"
"""The environment variable with the folder of the server's socket."""
MESSAGE_BYTES = 1 << 20


def _address(folder: str) -> str:
    """Return the path of the socket in a server's folder, for this Python alone."""
    return f"{folder}/{hashlib.sha256(os.fsencode(sys.executable)).hexdigest()[:8]}"


def start_server() -> None:
    """Start the fork server of this run of Snakemake. It ends when this process ends, which holds
    its standard input."""
    folder = os.environ[FOLDER] = tempfile.mkdtemp(prefix="psld-fork-")
    subprocess.Popen(
        [sys.executable, "-P", "-m", __name__, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | THREADS,
        start_new_session=True,  # Ctrl-C reaches a fork through the process that asked for it.
    )


def run_in_fork(words: Sequence[str]) -> None:
    """Run `psld WORD …` in a fork, and end this process as the fork ends.

    Return if the command runs in a process of its own, or if no server answers.
    """
    folder = os.environ.get(FOLDER)
    if not (folder and words and words[0] in COMMANDS and THREADS.items() <= os.environ.items()):
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(_address(folder))
            job = json.dumps([words, str(Path.cwd()), dict(os.environ)]).encode()
            socket.send_fds(connection, [job], [0, 1, 2])
            if not (answer := connection.recv(MESSAGE_BYTES)):
                return
            pid = int(answer)

            def forward(number: int, _: FrameType | None) -> None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
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


def serve(folder: str) -> list[str]:
    """Fork for each job that connects. Return only in a fork, with the words of its job."""
    for name in IMPORTS:
        import_module(name)
    gc.freeze()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(_address(folder))
        server.listen(512)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # Nobody waits for the keepers.
        while True:
            readable, _, _ = select.select([server, sys.stdin], [], [])
            if sys.stdin in readable:  # Snakemake has ended.
                shutil.rmtree(folder)
                os._exit(0)
            connection, _ = server.accept()
            with connection:
                if os.fork() == 0:
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    return _keep(connection)


def _keep(connection: socket.socket) -> list[str]:
    """Fork a job, and tell the process that asked for it how the job has ended.

    If that process is killed, so is the job. Return only in the job, with its words.
    """
    message, streams, _, _ = socket.recv_fds(connection, MESSAGE_BYTES, 3)
    words, folder, environment = json.loads(message)
    if (pid := os.fork()) == 0:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        sys.stdin = sys.__stdin__ = os.fdopen(0)
        sys.stdout = sys.__stdout__ = os.fdopen(1, "w")
        sys.stderr = sys.__stderr__ = os.fdopen(2, "w", buffering=1, errors="backslashreplace")
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        return words
    try:
        connection.send(str(pid).encode())
        job = os.pidfd_open(pid)
        if connection in select.select([connection, job], [], [])[0]:
            os.kill(pid, signal.SIGKILL)
        connection.send(str(os.waitpid(pid, 0)[1]).encode())
    finally:
        os._exit(0)


if __name__ == "__main__":
    words = serve(sys.argv[1])
    from psld.commands.main import main

    sys.argv = ["psld", *words]
    main()
