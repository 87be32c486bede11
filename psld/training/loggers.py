"""Loggers at work: each in a thread of its own, for which a training does not wait."""

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

from psld.config.parts import add_note
from psld.models.recipe import Logger
from psld.training.settings import RunSettings
from psld.training.state import History
from psld.utils.errors import one_line
from psld.utils.files import saved_step, write_text

PATIENCE = 5.0
"""Seconds that a call of a logger may take."""

LOGGED = "logged"
"""In a run directory: the last step that the loggers were given."""


class _Worker(Thread):
    """The thread of a logger, which ends with None in the queue or with an exception."""

    def __init__(self, logger: Logger, *given: Any) -> None:
        super().__init__(name=logger.kind, daemon=True)
        self.logger, self.given = logger, given
        self.queue: SimpleQueue[dict[str, float] | None] = SimpleQueue()
        self.since: float | None = time.monotonic()
        """When the present call began; None between calls."""
        self.is_given_up = False

    def run(self) -> None:
        try:
            log, entry = self.logger.start(*self.given), {}
            while entry is not None and not self.is_given_up:
                self.since = None
                entry = self.queue.get()
                self.since = time.monotonic()
                log(entry)
        except BaseException as error:  # sys.exit() of a logger does not end the training either
            add_note(error)
            traceback.print_exception(error)
            self._say(f"{type(error).__name__}: {one_line(str(error))}")

    def hangs(self) -> bool:
        """Check if its present call takes too long; it gets nothing more then."""
        since = self.since
        if self.is_alive() and since is not None and time.monotonic() - since > PATIENCE:
            self._say(f"more than {PATIENCE:g} seconds in one call")
        return self.is_given_up

    def _say(self, reason: str) -> None:
        if not self.is_given_up:
            self.is_given_up = True
            print(f"logger: {self.logger.kind}: {reason}; it gets nothing more", flush=True)


@contextmanager
def fed(
    loggers: Sequence[Logger], run: Path, settings: RunSettings, history: History
) -> Iterator[Callable[[History], None]]:
    """Start loggers, and yield a function of the history that gives them the new entries.

    They get those that the history has already, too, from the last step that any was given: a
    training that was killed repeats steps, so a file in the run directory has this step. At the
    end, wait for what the loggers still have to log.
    """
    last = saved_step(run, LOGGED)
    workers = [_Worker(logger, run, settings, last) for logger in loggers]
    for worker in workers:
        worker.start()

    def feed(history: History) -> None:
        nonlocal last
        new = [entry for entry in history if entry["step"] > last]
        if workers and new:
            last = int(new[-1]["step"])
            write_text(run / LOGGED, f"{last}\n")
        for worker in workers:
            if not worker.hangs():
                for entry in new:
                    worker.queue.put(dict(entry))

    try:
        feed(history)
        yield feed
    finally:
        for worker in workers:
            worker.queue.put(None)
        for worker in workers:
            while worker.is_alive() and not worker.hangs():
                worker.join(0.05)
