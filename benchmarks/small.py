"""The comparisons of docs/notes/small.md: differences of two cells of `make small`, with p-values.

python -m benchmarks.small

Reads the results of `make small` in the working directory. A difference is paired by samples where
both cells draw the same noise. The last column is the difference that these cells would have shown
with 80 % power at 5 %: about 2.8 standard errors, and more with few trainings. The p-values are not
corrected for the number of comparisons.
"""

import math
import sys
from collections.abc import Collection, Iterator

from scipy.stats import t as student

from psld.grid.cache import load_grid
from psld.grid.cells import Grid
from psld.grid.entries import Entry
from psld.grid.rows import distances
from psld.metrics.estimate import paired_difference

TRAININGS = "small-seeds"
FOUND_BY_THREE = 3.5
"""Standard deviations of retraining that three trainings against three find with 80 % power, as
benchmarks/coverage.py simulates it."""
GRIDS = ("small", TRAININGS)
BUDGETS = (10, 25, 50, 100, 250)
Pair = tuple[str, str]
"""Two cells: the first minus the second."""


def main() -> None:
    grids = {name: load_grid(name) for name in GRIDS}
    for name, question, pairs in questions(grids["small"].samplers):
        print(f"\n{question}\n")
        print("| cells | value | minus | difference | p | paired | could be seen |")
        print("|:--|--:|--:|--:|--:|:--|--:|")
        for one, other in pairs:
            a, b = results(grids[name], one), results(grids[name], other)
            difference = a.minus(b)
            values = f"{a.value:.2f} | {b.value:.2f}"
            paired = "yes" if difference.paired else "no"
            print(
                f"| {one} − {other} | {values} | {difference.value:+.2f} | "
                f"{difference.p_value:.1g} | {paired} | {detectable(a, b, difference.paired):.2f} |"
            )


def results(grid: Grid, cell: str) -> Entry:
    """Read the results of a cell in the grid's metric. End the program without them."""
    metric = grid.file.metric
    [shown] = [e for e in distances(grid) if (e.cell.name, e.shown.metric) == (cell, metric)]
    measured = shown.read()
    if not measured.results:
        path = grid.cells[cell].result
        print(f"error: {path}: no result; run make small first", file=sys.stderr)
        sys.exit(2)
    return measured


def detectable(a: Entry, b: Entry, paired: bool) -> float:
    """Return the difference that a test at 5 % finds with 80 % power.

    With three trainings of both cells, the error is that of training again.
    """
    x, y = a.trained, b.trained
    if x and y:
        deviations = (3**0.5 * each.standard_error for each in (x, y))
        return FOUND_BY_THREE * math.hypot(*deviations) / 2**0.5
    x, y = a.drawn, b.drawn
    if paired:
        [(error, freedom)] = paired_difference(x, y).errors
        return power_factor(freedom) * error
    error = (x.standard_error**2 + y.standard_error**2) ** 0.5
    return power_factor(x.blocks + y.blocks - 2) * error


def power_factor(freedom: float) -> float:
    """Return the difference, in standard errors, that is found with 80 % power."""
    return float(student.ppf(0.975, freedom) + student.ppf(0.8, freedom))


def questions(samplers: Collection[str]) -> Iterator[tuple[str, str, list[Pair]]]:
    """Yield the questions of docs/small.md: the grid, the question, the cells that are compared."""
    models = ("vp-sde", "cld", "psld-0.02")
    yield (
        "small",
        "PSLD against CLD, by sampler",
        [(f"psld-0.02/{s}", f"cld/{s}") for s in samplers],
    )
    yield (
        "small",
        "PSLD against VP-SDE, by sampler",
        [(f"psld-0.02/{s}", f"vp-sde/{s}") for s in samplers if "sscs" not in s],
    )
    yield (
        "small",
        "EM: uniform against quadratic striding",
        [(f"{m}/em-uniform-{n}", f"{m}/em-quadratic-{n}") for m in models for n in BUDGETS],
    )
    yield (
        "small",
        "SSCS against EM, both quadratic",
        [(f"{m}/sscs-quadratic-{n}", f"{m}/em-quadratic-{n}") for m in models[1:] for n in BUDGETS],
    )
    yield (
        "small",
        "The friction against Γ = 0.02",
        [
            (f"{m}/{s}", f"psld-0.02/{s}")
            for s in ("em-quadratic-50", "em-uniform-100", "multistep-10")
            for m in ("cld", "psld-0.005", "psld-0.1", "psld-0.25", "psld-0.5")
        ],
    )
    yield (
        "small",
        "Few evaluations: multistep at 10 against EM at 100",
        [(f"{m}/multistep-10", f"{m}/em-quadratic-100") for m in models],
    )
    fifty = ("em-quadratic-50", "sscs-quadratic-50")
    yield (
        TRAININGS,
        "Three trainings: PSLD against CLD, and SSCS against EM",
        [
            *((f"psld-0.02/{s}", f"cld/{s}") for s in (*fifty, "multistep-10")),
            *((f"{m}/{fifty[1]}", f"{m}/{fifty[0]}") for m in models[1:]),
        ],
    )


if __name__ == "__main__":
    main()
