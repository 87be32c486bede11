"""Compare the times of two functions, and measure the resources that a process uses."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from resource import struct_rusage

ROOT = Path(__file__).parents[1]


def compare(
    name: str, ours: Callable[[], object], baseline: Callable[[], object], repeats: int = 7
) -> None:
    """Print the median times of two functions that run alternately, and the ratio ours/baseline."""
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


def used(folder: Path, *command: str, **environment: str) -> struct_rusage:
    """Run Python, and return the resources it used; exit with its output if it fails."""
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            env=os.environ | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit((folder / "output").read_text()[-2000:])
    return usage
