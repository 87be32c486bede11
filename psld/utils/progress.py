"""Progress of long computations: a bar on a terminal, and a line every 30 seconds elsewhere."""

import math
import time

from tqdm.auto import tqdm

LINE_SECONDS = 30
"""Minimum number of seconds between two lines of progress."""


def about(seconds: float) -> str:
    """Format a duration in its largest unit, such as "about 12 minutes"."""
    for unit, size in {"days": 86_400, "hours": 3600, "minutes": 60}.items():
        if seconds >= 1.5 * size:
            return f"about {seconds / size:,.0f} {unit}"
    return f"about {math.ceil(seconds)} seconds"


class Progress:
    """Shows the progress of a loop.

    On a terminal, it shows a bar. Otherwise, it prints a line to standard output every 30 seconds.

    with closing(Progress("training", "step", total=1000)) as progress:
        for _ in range(1000):
            progress.update()
    """

    def __init__(
        self,
        name: str,
        unit: str,
        total: int | None = None,
        done: int = 0,
        *,
        silent: bool = False,
        leave: bool = True,
    ) -> None:
        """
        Args:
            total: number of units; None if it is unknown.
            done: number of units that were completed before the start.
            silent: show neither a bar nor lines.
            leave: leave the bar on the terminal at the end.
        """
        self.name, self.unit, self.total, self.done = name, unit, total, done
        self.note = ""
        """Additional text at the end of the bar or line."""
        shown = True if silent else None  # None disables the bar if the output is no terminal.
        self._bar = tqdm(
            total=total, initial=done, desc=name, unit=unit, disable=shown, leave=leave
        )
        self.in_lines = self._bar.disable and not silent
        """True if lines are printed, because the output is not a terminal."""
        self._last = time.monotonic(), done

    def update(self, units: int = 1) -> None:
        self.done += units
        self._bar.set_postfix_str(self.note, refresh=False)
        self._bar.update(units)
        now, (since, before) = time.monotonic(), self._last
        if self.in_lines and now - since >= LINE_SECONDS:
            self._last = now, self.done
            print(self._line((self.done - before) / (now - since)), flush=True)

    def close(self) -> None:
        self._bar.close()

    def _line(self, rate: float) -> str:
        place, left = f"{self.unit} {self.done}", ""
        if self.total:
            place += f" of {self.total}"
            left = tqdm.format_interval((self.total - self.done) / rate) + " left"
        parts = (place, f"{rate:.3g} {self.unit}s/s", left, self.note)
        return f"{self.name}: {', '.join(filter(None, parts))}"
