"""A request by signal to stop a training between two steps."""

import signal
from types import FrameType
from typing import Any

from psld.utils.errors import RunError

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
"""From a scheduler, from the keyboard, and from Slurm before a time limit or a preemption."""


class StopRequest:
    """The stop signals as a number that the loop reads, within a `with` block.

    A second Ctrl-C has its usual effect. Slurm repeats its signals (SIGTERM before and after a
    grace period, then SIGKILL), so other repeats are ignored.
    """

    def __init__(self) -> None:
        self.number = 0
        """The number of the signal; 0 before there is one."""
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        self.previous = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        for number in STOP_SIGNALS:
            signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        self.number = number
        if number == signal.SIGINT:
            signal.signal(number, self.previous[number])


class Stopped(RunError):
    """A signal ended a training, after a checkpoint. The exit code is a shell's, 128 + signal."""

    def __init__(self, number: int, step: int) -> None:
        self.signal = signal.Signals(number)
        self.exit_code = 128 + number
        super().__init__(
            f"stopped by {self.signal.name} at step {step}, after a checkpoint; "
            "run the same command again to go on"
        )
