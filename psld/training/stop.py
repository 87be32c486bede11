"""Stopping a training between two steps when a signal asks for it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from psld.utils.errors import RunError

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
"""From a scheduler, from the keyboard, and from Slurm before a time limit or a preemption."""


class StopRequest:
    """Remembers the signal that asked to stop.

    A second Ctrl-C acts as before. Slurm's signals come several times, and mean no more haste then:
    it ends a job with two SIGTERM in a row, before and after a time of grace; what it waits for no
    longer, it kills.
    """

    def __init__(self) -> None:
        self.number = 0
        """The signal's number, 0 while there is none."""
        self.previous: dict[int, Any] = {}

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        self.number = number
        if number == signal.SIGINT:
            signal.signal(number, self.previous[number])


class Stopped(RunError):
    """A signal ended a training, after a checkpoint; the exit code is a shell's, 128 + signal."""

    def __init__(self, number: int, step: int) -> None:
        self.signal = signal.Signals(number)
        self.exit_code = 128 + number
        super().__init__(
            f"stopped by {self.signal.name} at step {step}, after a checkpoint; "
            "run the same command again to go on"
        )


@contextmanager
def stop_on(*signals: signal.Signals) -> Iterator[StopRequest]:
    """Turn these signals into a request that the loop reads, instead of an immediate end."""
    request = StopRequest()
    request.previous = {number: signal.getsignal(number) for number in signals}
    for number in signals:
        signal.signal(number, request._remember)
    try:
        yield request
    finally:
        for number, handler in request.previous.items():
            signal.signal(number, handler)
