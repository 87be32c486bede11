"""Run each logger in its own thread, so that the training does not wait for loggers."""

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
"""The longest duration of a call to a logger, in seconds."""

LOGGED = "logged"
"""The name of a file in the run directory. The file holds the last step sent to the loggers."""


class _Worker(Thread):
    """The thread of a logger. The thread ends when it takes `None` from the queue, or when the
    logger raises an exception."""

    def __init__(self, logger: Logger, *given: Any) -> None:
        super().__init__(name=logger.kind, daemon=True)
        self.logger, self.given = logger, given
        self.queue: SimpleQueue[dict[str, float] | None] = SimpleQueue()
        self.since: float | None = time.monotonic()
        """Monotonic time at which the current call began; None between calls."""
        self.is_given_up = False

    def run(self) -> None:
        try:
            log, entry = self.logger.start(*self.given), {}
            while entry is not None and not self.is_given_up:
                self.since = None
                entry = self.queue.get()
                self.since = time.monotonic()
                log(entry)
        except BaseException as error:  # sys.exit() in a logger must not end the training.
            add_note(error)
            traceback.print_exception(error)
            self._give_up(f"{type(error).__name__}: {one_line(str(error))}")

    def hangs(self) -> bool:
        """Check if the current call takes too long. If so, the logger gets no more entries."""
        since = self.since
        if self.is_alive() and since is not None and time.monotonic() - since > PATIENCE:
            self._give_up(f"more than {PATIENCE:g} seconds in one call")
        return self.is_given_up

    def _give_up(self, reason: str) -> None:
        if not self.is_given_up:
            self.is_given_up = True
            print(f"logger: {self.logger.kind}: {reason}; it gets no more entries", flush=True)


@contextmanager
def fed(
    loggers: Sequence[Logger], run: Path, settings: RunSettings, history: History
) -> Iterator[Callable[[History], None]]:
    """Start the loggers, and yield a function that sends them the new entries of a history.

    New entries in the given `history` are sent first. A file in the run directory holds the last
    step that was sent: a killed training repeats the steps after its last checkpoint, and these
    steps must not be sent twice. At the end, the context manager waits until the loggers have
    processed all entries.
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
