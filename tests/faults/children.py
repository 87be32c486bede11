"""Commands in separate processes that receive a signal at a chosen moment.

The processes are forks of a process that has imported all modules, so their start is fast.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

from psld.commands.main import COMMANDS, main
from tests.commands import Finished
from tests.faults.stages import STAGES, Stage

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [__name__, *(f"psld.commands.{COMMANDS[stage.name]}" for stage in STAGES)]
)


class Moment(NamedTuple):
    """A moment of a command at which its process sends itself a signal."""

    signal: int
    position: int
    """The number of renames before the signal. At this moment, the process has written a file but
    not yet renamed it."""


class Child(NamedTuple):
    """A command in a process."""

    process: BaseProcess
    words: tuple[str, ...]
    output: Path
    """The file of its stdout; the file of its stderr ends in .err."""

    def said(self) -> str:
        return self.output.read_text()

    def ended(self) -> Finished:
        """Wait until the process has ended, and return its result."""
        self.process.join(300)
        errors = self.output.with_suffix(".err").read_text()
        return Finished(self.words, self.process.exitcode, self.said(), errors)

    def stopped(self) -> bool:
        """Wait until the process has stopped itself, or has ended; return False if it has ended."""
        while self.process.is_alive():
            stat = Path(f"/proc/{self.process.pid}/stat").read_text()
            if stat.rpartition(")")[2].split()[0] == "T":
                return True
            time.sleep(0.01)
        return False

    def go_on(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)


def start(stage: Stage, project: Path, name: str = "child", moment: Moment | None = None) -> Child:
    """Start a stage in a process, whose output goes to a file `name` next to the project."""
    output = project.parent / f"{name}.out"
    output.write_text("")  # remove the output of an earlier process with this name
    given = (project, stage.words, output, dict(os.environ), moment)
    process = CONTEXT.Process(target=_run, args=given)
    process.start()
    return Child(process, stage.words, output)


@contextlib.contextmanager
def without_partials(project: Path) -> Iterator[set[Path]]:
    """Remove the temporary files, and restore them at the end of the context."""
    partial = {path: path.read_bytes() for path in project.rglob(".*.partial")}
    for path in partial:
        path.unlink()
    yield set(partial)
    for path, content in partial.items():
        path.write_bytes(content)


def _run(
    project: Path,
    words: tuple[str, ...],
    output: Path,
    environment: dict[str, str],
    moment: Moment | None,
) -> None:
    for file, descriptor in ((output, 1), (output.with_suffix(".err"), 2)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.environ.update(environment)
    os.chdir(project)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if moment:
        _signal_at(moment)
    sys.argv = ["psld", *words]
    main()


def _signal_at(moment: Moment) -> None:
    """Send the signal to this process after `moment.position` renames, before the next rename."""
    position = 0
    replace = Path.replace

    def rename(path: Path, target: Path) -> Path:
        nonlocal position
        position += 1
        if position == moment.position + 1:
            os.kill(os.getpid(), moment.signal)
        return replace(path, target)

    Path.replace = rename
