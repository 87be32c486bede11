"""Measure the CPU time until the work of each command begins, and the time of `import torch`.

    python -m benchmarks.startup

A cold run finds no compiled modules and no cached grid. The column "warm" has the minimum of the
later runs, because the minimum depends little on other load of the machine. Each command is stopped
when its settings have been checked, except tabulate and plan, which run to the end.
"""

import tempfile
from pathlib import Path

from tabulate import tabulate

from benchmarks.timing import used

REPEATS = 5

UNTIL_WORK = """
import gc
gc.disable()  # as psld does while it imports
import psld.commands.main as program
from psld.grid.records import Job
gc.enable()
Job.check = lambda job: None  # No model is there.
checked = program.entry_point
program.entry_point = lambda *how, **more: lambda main: checked(*how, **more)(lambda settings: None)
"""
RUN = "from psld.commands.main import main; main()"

BASE = "import torch"
"""The code whose time is subtracted from the times of the commands in `WITH_TORCH`."""

COMMANDS = {
    "prepare dataset=demo/digits": UNTIL_WORK + RUN,
    "train model=demo/cld data=x.h5": UNTIL_WORK + RUN,
    "train_guide guide=demo/psld-0.02 data=x.h5": UNTIL_WORK + RUN,
    "train_extractor features=demo/digits/fd-classifier data=x.h5": UNTIL_WORK + RUN,
    "import_model model=demo/cld data=x.h5 checkpoint=x": UNTIL_WORK + RUN,
    "reference features=demo/digits/fd-classifier data=x.h5": UNTIL_WORK + RUN,
    "sample cell=demo/cld/em-quadratic-40": UNTIL_WORK + RUN,
    "evaluate_cell cell=demo/cld/em-quadratic-40": UNTIL_WORK + RUN,
    "tabulate table=demo-few": RUN,
    "figure figure=nfe": UNTIL_WORK + RUN,
    "plan list=cells": RUN,
    "launch -- train model=demo/cld data=x.h5": UNTIL_WORK + RUN,
    "wandb sync": UNTIL_WORK + RUN,
}
WITH_TORCH = (
    "train",
    "train_guide",
    "train_extractor",
    "import_model",
    "reference",
    "sample",
    "evaluate_cell",
)
"""The commands that import torch before their work begins."""


def seconds(folder: Path, code: str, words: str = "") -> float:
    """Return the CPU seconds of a process that runs `code`; `folder` stores compiled modules."""
    # Allow compiled modules even if the environment forbids them, because otherwise no run is warm.
    compiled = {"PYTHONPYCACHEPREFIX": str(folder / "compiled"), "PYTHONDONTWRITEBYTECODE": ""}
    usage = used(folder, "-c", code, *words.split(), **compiled)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        torch_seconds = 0.0
        for number, (words, code) in enumerate({"": BASE, **COMMANDS}.items()):
            folder = Path(name) / str(number)
            folder.mkdir()
            cold = seconds(folder, code, words)
            warm = min(seconds(folder, code, words) for _ in range(REPEATS))
            torch_seconds = warm if number == 0 else torch_seconds
            beyond = warm - torch_seconds if words.split(" ")[0] in WITH_TORCH else warm
            rows.append([words or BASE, *(f"{s:.2f}" for s in (cold, warm, beyond))])
    headers = ["command", "cold (s)", "warm (s)", "warm, beyond torch (s)"]
    print(tabulate(rows, headers, "github", disable_numparse=True))


if __name__ == "__main__":
    main()
