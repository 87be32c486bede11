"""Run one hour of tests and measurements on a GPU: `make gpu-hour`.

    python -m benchmarks.gpu_hour           # needs a GPU, but no internet connection
    python -m benchmarks.gpu_hour cpu       # the same parts in tiny sizes, to test this program

The parts are `tests/gpu`, measurements of the paper's networks (throughput, memory, GPU hours), and
the demo. A cell of Table 1 is an additional part if its model is imported (`psld import_model`) and
CIFAR-10 is prepared. Each part takes less than ten minutes, prints its result and stores the result
in results/gpu-hour. A part that fails or takes too long does not stop the other parts. Run the same
command again to run the missing parts. At the end, the program prints Markdown tables for
docs/notes/benchmarks.md.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from tabulate import tabulate

from benchmarks.gpu import Row, measurements
from psld.evaluation.results import CellResults
from psld.grid.cache import load_grid
from psld.grid.rows import cells_behind, entries_in
from psld.models.manifest import imported_file
from psld.utils.device import device_name, use_device
from psld.utils.files import write_json
from tests.workflow.project import Project

LIMIT = 590
"""The time limit of a part, in seconds."""
RESULTS = Path("results/gpu-hour")
Part = tuple[str, Callable[[], Row]]
"""The title of the part's table, and the function that measures the part's row."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("device", nargs="?", default="cuda:0", choices=["cuda:0", "cpu"])
    parser.add_argument("part", nargs="?", help="run this part alone, in this process")
    given = parser.parse_args()
    if given.device != "cpu" and not torch.cuda.is_available():
        print("benchmarks.gpu_hour: skipped, there is no GPU here")
        return
    device = torch.device(given.device)
    every = parts(device)
    if given.part:
        run(given.part, every[given.part], use_device(given.device, tf32=True))
        return
    for name in every:
        if not place(name, device).exists():
            print(f"{name} …", flush=True)
            command = [sys.executable, "-m", "benchmarks.gpu_hour", given.device, name]
            code = subprocess.run(["timeout", str(LIMIT), *command], check=False).returncode
            if code:
                what = f"not finished in {LIMIT} s" if code == 124 else "failed"
                print(f"{name}: {what}; the same command goes on", flush=True)
    print(report(every, device))


def parts(device: torch.device) -> dict[str, Part]:
    """Return all parts by name, in the order in which they run."""
    imported = any(map(imported_file, Path("models/paper").glob("cifar10-*")))
    has_cell = imported and Path("data/cifar10.h5").exists()
    of_paper = {"cell-of-table-1": ("Checks", cell)} if has_cell else {}
    return {
        "tests": ("Checks", partial(tests, device)),
        **measurements(device),
        "demo": ("Checks", partial(demo, device)),
        **of_paper,
    }


def place(name: str, device: torch.device) -> Path:
    """Return the file of a part's result on this GPU."""
    return RESULTS / device_name(device).replace(" ", "-") / f"{name}.json"


def run(name: str, part: Part, device: torch.device) -> None:
    """Run a part, print its row, and store the row."""
    title, measure = part
    started = time.monotonic()
    row = measure()
    took = f"{time.monotonic() - started:.0f} s"
    print(f"{name}: {', '.join(f'{key} {value}' for key, value in row.items())} ({took})")
    write_json(place(name, device), {"title": title, "row": row})


def report(every: dict[str, Part], device: torch.device) -> str:
    """Return the tables of all results, and a line with the names of missing parts."""
    tables: dict[str, list[Row]] = {}
    kept = {name: place(name, device) for name in every}
    for file in kept.values():
        if file.exists():
            result = json.loads(file.read_text())
            tables.setdefault(result["title"], []).append(result["row"])
    text = [f"### {device_name(device)}, torch {torch.__version__}"]
    for title, rows in tables.items():
        text += [f"{title}:", tabulate(rows, "keys", "github", disable_numparse=True)]
    if missing := ", ".join(name for name, file in kept.items() if not file.exists()):
        text += [f"Missing: {missing}."]
    return "\n\n".join(text)


def tests(device: torch.device) -> Row:
    """Run tests/gpu except for the demo, which is a separate part."""
    words = ["tests/gpu", "--ignore=tests/gpu/test_whole_demo.py", "-rs"]
    if device.type == "cpu":
        words = ["tests/gpu/test_steps.py", "-k", "batches"]
    environment = {**os.environ, "PSLD_TEST_DEVICE": str(device)}
    command = [sys.executable, "-m", "pytest", "-n", "0", *words]
    pipe, said = subprocess.PIPE, ""
    with subprocess.Popen(command, stdout=pipe, text=True, env=environment) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            said = line.strip("= \n") or said
    if process.returncode:
        sys.exit(process.returncode)
    return {"what": "tests/gpu", "result": said}


def demo(device: torch.device) -> Row:
    """Run the demo's grid in a separate folder, with parallel jobs."""
    folder = RESULTS / f"demo-{device.type}"
    project = Project(folder.resolve()) if folder.exists() else Project.create_with_grids(folder)
    target = "demo" if device.type == "cuda" else "data/digits.h5"
    started = time.monotonic()
    succeed(project.command(target, "--cores", "8"), project.folder, project.environment)
    cells = len(project.files("results/cells"))
    return {"what": target, "result": f"{cells} cells, {time.monotonic() - started:.0f} s"}


def cell() -> Row:
    """Measure a cell of Table 1 whose model is imported."""
    grid = load_grid("paper")
    imported = [each for each in cells_behind(entries_in(grid, "table1")) if each.model.checkpoint]
    if not imported:
        sys.exit("no model of Table 1 is imported")
    first = min(imported, key=lambda each: each.model.settings.network.blocks_per_level)
    command = [sys.executable, "-m", "snakemake", "--profile", "profiles/default"]
    succeed([*command, first.result], Path(), dict(os.environ))
    values = {r.metric["name"]: r.value for r in CellResults.read(first.result).results}
    return {"what": first.name, "result": f"FID {values['fid']:.2f}"}


def succeed(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    """Run a command; exit with its exit code if it fails."""
    if code := subprocess.run(command, cwd=folder, env=environment, check=False).returncode:
        sys.exit(code)


if __name__ == "__main__":
    main()
