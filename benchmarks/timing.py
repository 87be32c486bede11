"""Paired timing: two functions run in turn, and their time ratio for each pair of runs."""

import statistics
import time
from collections.abc import Callable


def compare(
    name: str, ours: Callable[[], object], baseline: Callable[[], object], repeats: int = 7
) -> None:
    """Print the median times of both and the median, least and greatest ratio ours/baseline."""
    ours(), baseline()
    pairs = [(_seconds(ours), _seconds(baseline)) for _ in range(repeats)]
    ratios = sorted(a / b for a, b in pairs)
    a, b = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(
        f"{name}: {a * 1e3:.2f} ms against {b * 1e3:.2f} ms, "
        f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


def _seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
