"""Stopping a training between two steps when a signal asks for it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
"""From a scheduler, from the keyboard, and from Slurm before a time limit or a preemption."""


class StopRequest:
    """Remembers the signal that asked to stop; a second one acts as it did before."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.previous: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self.signal is not None

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        signal.signal(number, self.previous[number])


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
