"""The fork server of a run. `psld.cluster.forks` starts the server and asks it for forks.

The server listens on a socket in a private temporary folder. It has only one thread and never
initializes CUDA, because neither other threads nor CUDA work after a fork.
"""

import gc
import json
import os
import select
import shutil
import signal
import socket
import sys
from importlib import import_module

from psld.cluster.forks import MESSAGE_BYTES, address

IMPORTS = (
    *("psld.commands.metrics", "psld.commands.report", "psld.commands.sampling"),
    *("psld.commands.training", "psld.evaluation.evaluation", "psld.metrics.extraction"),
    *("psld.report.page", "psld.report.plots", "psld.report.table", "psld.sampling.sample"),
    *("psld.training.run", "torch._dynamo"),  # torch's optimizers import torch._dynamo.
)
"""The modules that the commands in forks need."""


def serve(folder: str) -> list[str]:
    """Fork for each job that connects.

    The function returns only in a fork. The result is the arguments of the job.
    """
    # Computed before the imports, because the address depends on the code.
    path = address(folder)
    for name in IMPORTS:
        import_module(name)
    gc.freeze()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(path)
        server.listen(512)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # The kernel reaps the supervisors.
        while True:
            readable, _, _ = select.select([server, sys.stdin], [], [])
            if sys.stdin in readable:  # Snakemake has exited.
                shutil.rmtree(folder, ignore_errors=True)
                os._exit(0)
            connection, _ = server.accept()
            with connection:
                if os.fork() == 0:
                    server.close()
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    return _supervise(connection)


def _supervise(connection: socket.socket) -> list[str]:
    """Fork a job, and report its exit status to the process that asked for the fork.

    If the asking process is killed, kill the job. The function returns only in the job. The result
    is the arguments of the job.
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
        job = os.pidfd_open(pid)
        connection.send(str(pid).encode())
        if connection in select.select([connection, job], [], [])[0]:
            os.kill(pid, signal.SIGKILL)
        connection.send(str(os.waitpid(pid, 0)[1]).encode())
    except OSError:
        os.kill(pid, signal.SIGKILL)  # The job's exit status could not be reported.
    finally:
        os._exit(0)
