"""Loggers at work: each in a thread of its own, for which a training does not wait."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

from psld.training.manifest import HISTORY, TrainingHistory
from psld.training.recipe import Logger
from psld.training.settings import RunSettings
from psld.utils.errors import UserError, one_line

PATIENCE = 5.0
"""Seconds that a call of a logger may take."""


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
    logger: Logger, run: Path, settings: RunSettings, from_step: int
) -> Iterator[Callable[[list[dict[str, float]]], None]]:
    """Start a logger, and yield a function of the history that gives it the new entries.

    A training that was killed repeats steps that it has logged; history.json has them until it is
    written again. At the end, wait for what the logger still has to log.
    """
    with suppress(UserError):  # a new training
        written = TrainingHistory.read(run / HISTORY).entries
        from_step = max([from_step, *(entry.step for entry in written)])
    worker, last = _Worker(logger, run, settings, from_step), from_step
    worker.start()

    def feed(history: list[dict[str, float]]) -> None:
        nonlocal last
        if not worker.hangs():
            for entry in history:
                if entry["step"] > last:
                    worker.queue.put(dict(entry))
            last = max(last, history[-1]["step"])

    try:
        yield feed
    finally:
        worker.queue.put(None)
        while worker.is_alive() and not worker.hangs():
            worker.join(0.05)
