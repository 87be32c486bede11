"""Insert small faults into the code, one at a time, and report which faults the tests detect.

    python -m benchmarks.faults                                                # all
    python -m benchmarks.faults M15 M16 --tests tests/metrics/test_estimate.py

For each fault, faults.json contains the file, the old and the new text, a description, and the test
that detected the fault last time. This test runs first. If the old text occurs several times, `nth`
selects an occurrence, counted from 0. The fault is inserted into a clone of the last commit. A
fault counts as detected if a fast test in tests/PACKAGE of the clone fails. If the old text of a
fault no longer exists, tests/test_benchmarks.py fails and lists the fault; update it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

FAULTS = Path(__file__).with_suffix(".json")
ROOT = Path(__file__).parents[1]
FAST = "not slow and not slurm and not gpu"


def planted(text: str, old: str, new: str, nth: int | None = None) -> str:
    """Return the text with a fault. Raises ValueError if `old` is missing or ambiguous."""
    places = text.split(old)
    if len(places) < 2 or (nth is None and len(places) > 2) or len(places) < (nth or 0) + 2:
        raise ValueError(f"{len(places) - 1} times")
    before, after = places[: (nth or 0) + 1], places[(nth or 0) + 1 :]
    return old.join(before) + new + old.join(after)


def noticed_by(fault: dict[str, Any], folder: Path, tests: list[str]) -> str | None:
    """Return the test that fails in a clone with a fault, or None if all tests pass."""
    path = folder / fault["file"]
    whole = path.read_text()
    place = {key: fault[key] for key in ("old", "new", "nth") if key in fault}
    path.write_text(planted(whole, **place))
    package, room = Path(fault["file"]).parts[:2]
    own = Path("tests", room if package == "psld" else package)
    first = [fault.get("test"), str(own / f"test_{path.stem}.py"), str(own)]
    try:
        for test in tests or first:
            if not test or not (folder / test.partition("::")[0]).exists():
                continue
            done = subprocess.run(
                [sys.executable, "-m", "pytest", "-x", "-q", "-n0", "-m", FAST, test],
                **{"cwd": folder, "env": {**os.environ, "PYTHONPATH": str(folder)}},
                **{"capture_output": True, "text": True},
            )
            failed = [
                line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))
            ]
            if done.returncode in (1, 2) and failed:
                return failed[0].partition(" ")[2].partition(" - ")[0]
            if done.returncode not in (0, 4, 5):  # 4: a renamed test, 5: no fast test
                sys.exit(f"{test}: pytest ends with {done.returncode}: {done.stderr[-200:]}")
        return None
    finally:
        path.write_text(whole)


def in_clones(count: int, function: Callable[[str, Path], None], names: list[str]) -> None:
    """Call a function with each name and a clone of the last commit, in several threads."""
    clones: SimpleQueue[Path] = SimpleQueue()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(count) as threads:
        for number in range(count):
            clones.put(clone := Path(folder, str(number)))
            subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)

        def call(name: str) -> None:
            clone = clones.get()
            try:
                function(name, clone)
            finally:
                clones.put(clone)

        list(threads.map(call, names))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("faults", nargs="*", help="names in faults.json; default: all")
    parser.add_argument("--tests", nargs="*", default=[], help="default: tests/PACKAGE")
    options, faults = parser.parse_args(), json.loads(FAULTS.read_text())
    survived = []

    def plant(name: str, clone: Path) -> None:
        fault = faults[name]
        test = noticed_by(fault, clone, options.tests)
        print(name, test or "SURVIVED", f"({fault['what']})", flush=True)
        if test:
            fault["test"] = test
            FAULTS.write_text(json.dumps(faults, indent=1, ensure_ascii=False) + "\n")
        else:
            survived.append(name)

    in_clones(os.cpu_count() or 1, plant, options.faults or list(faults))
    sys.exit(f"survived: {' '.join(survived)}" if survived else 0)


if __name__ == "__main__":
    main()
