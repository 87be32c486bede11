"""Functions that run commands, wait for a condition or find free ports, with clear errors."""

import contextlib
import os
import random
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

PORTS = range(12000, 20000)
"""Ports below the ports of outgoing connections and of ranks. Otherwise the port of a killed node
might be in use when the node comes back."""


def call(command: Sequence[str | Path], environment: dict[str, str], seconds: float = 180) -> str:
    """Run `command` with exactly `environment` and return its standard output.

    Raises RuntimeError with the command and its output if the command fails, and TimeoutExpired if
    the command takes longer than `seconds`.
    """
    result = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    if result.returncode != 0:
        line = shlex.join(map(str, command))
        raise RuntimeError(
            f"`{line}`: exit code {result.returncode}\n{result.stdout}{result.stderr}"
        )
    return result.stdout


def wait_until(
    condition: Callable[[], bool], seconds: float, what: str, log: Path | None = None
) -> None:
    """Return as soon as `condition()` holds; raise TimeoutError with `what` and the log's text."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            said = log.read_text() if log else ""
            raise TimeoutError(f"{what}: not within {seconds:g} s\n{said}")
        time.sleep(0.3)  # Many conditions query Slurm, which starts a process.


def free_ports(count: int) -> list[int]:
    """Return `count` free TCP ports of the loopback interface."""
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as candidate:
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"only {len(found)} of {count} ports are free in {PORTS}")


@contextlib.contextmanager
def process_group(
    command: list[str], folder: Path, environment: dict[str, str], log: Path
) -> Iterator[subprocess.Popen[str]]:
    """Start a command in a separate process group, which is killed at the end; append its output to
    `log`."""
    with log.open("a") as stream:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
