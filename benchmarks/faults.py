"""Plant small faults in the code, one at a time, and say which of them the tests notice.

    python -m benchmarks.faults                                                # all: hours
    python -m benchmarks.faults M15 M16 --tests tests/metrics/test_estimate.py

faults.json has for each fault its file, the old and the new text, and what it is. `nth` counts from
0 if the old text is there several times. A fault is planted in a clone of the last commit, where
the fast tests of its room, tests/PACKAGE, have to fail. Where code has moved, write it again:
tests/test_benchmarks.py names those whose old text is gone.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

FAULTS = Path(__file__).with_suffix(".json")
ROOT = Path(__file__).parents[1]
FAST = "not slow and not slurm and not gpu"


def planted(text: str, old: str, new: str, nth: int | None = None) -> str:
    """Return the text with a fault. Raises ValueError if its place is not there, or unclear."""
    places = text.split(old)
    if len(places) < 2 or (nth is None and len(places) > 2) or len(places) < (nth or 0) + 2:
        raise ValueError(f"{len(places) - 1} times")
    before, after = places[: (nth or 0) + 1], places[(nth or 0) + 1 :]
    return old.join(before) + new + old.join(after)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("faults", nargs="*", help="names in faults.json; default: all")
    parser.add_argument("--tests", nargs="*", help="default: those of the fault's room")
    options, faults = parser.parse_args(), json.loads(FAULTS.read_text())
    survived = []
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "clone", "-q", ROOT, folder], check=True)
        for name in options.faults or faults:
            what, file = (faults[name].pop(key) for key in ("what", "file"))
            path = Path(folder, file)
            whole = path.read_text()
            path.write_text(planted(whole, **faults[name]))
            package, room = Path(file).parts[:2]
            own = Path("tests", room if package == "psld" else package)
            first = [str(f) for f in [own / f"test_{path.stem}.py"] if Path(folder, f).exists()]
            tests = options.tests or [*first, str(own)]
            done = subprocess.run(
                [sys.executable, "-m", "pytest", "-x", "-q", "-n0", "-m", FAST, *tests],
                **{"cwd": folder, "env": {**os.environ, "PYTHONPATH": folder}},
                **{"capture_output": True, "text": True},
            )
            path.write_text(whole)
            survived += [name] if done.returncode != 1 else []
            found = [line for line in done.stdout.splitlines() if line.startswith("FAILED")][:1]
            print(name, *(found or ["SURVIVED"]), f"({what})", flush=True)
    sys.exit(f"survived: {' '.join(survived)}" if survived else 0)


if __name__ == "__main__":
    main()
