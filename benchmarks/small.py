"""The comparisons of docs/small.md: differences of two cells of the grid `small`, with p-values.

python -m benchmarks.small

Reads the results of `make small` in the working directory. A difference is paired by samples where
both cells draw the same noise. The p-values are not corrected for the number of comparisons.
"""

import sys
from collections.abc import Iterable, Iterator

from psld.grid.cache import load_grid
from psld.grid.entries import SeedResults, read_results
from psld.grid.records import Grid

GRID = "small"
BUDGETS = (10, 25, 50, 100, 250)
Pair = tuple[str, str]
"""Two cells: the first minus the second."""


def main() -> None:
    grid = load_grid(GRID)
    for question, pairs in questions(grid.samplers):
        rows = [(one, other, results(grid, one), results(grid, other)) for one, other in pairs]
        print(f"\n{question}\n")
        print("| cells | value | minus | difference | p | paired |")
        print("|:--|--:|--:|--:|--:|:--|")
        for one, other, a, b in rows:
            difference = a.difference(b)
            values = f"{a.interval().value:.2f} | {b.interval().value:.2f}"
            paired = "yes" if difference.paired else "no"
            print(
                f"| {one} − {other} | {values} | {difference.value:+.2f} | "
                f"{difference.p_value:.1g} | {paired} |"
            )


def results(grid: Grid, cell: str) -> SeedResults:
    """Read the results of a cell, which has one number. End the program without them."""
    [number] = [number for number in grid.file.numbers if number.cell == cell]
    measured = read_results(grid, number)
    if not measured.results:
        path = grid.cells[cell].result
        print(f"error: {path}: no result; run make small first", file=sys.stderr)
        sys.exit(2)
    return measured


def questions(samplers: Iterable[str]) -> Iterator[tuple[str, list[Pair]]]:
    """Yield the questions of docs/small.md with the cells that they compare."""
    models = ("vp-sde", "cld", "psld-0.02")
    yield (
        "PSLD against CLD, by sampler",
        [(f"psld-0.02/{s}", f"cld/{s}") for s in samplers],
    )
    yield (
        "EM: uniform against quadratic striding",
        [(f"{m}/em-uniform-{n}", f"{m}/em-quadratic-{n}") for m in models for n in BUDGETS],
    )
    yield (
        "SSCS against EM, both quadratic",
        [(f"{m}/sscs-quadratic-{n}", f"{m}/em-quadratic-{n}") for m in models[1:] for n in BUDGETS],
    )
    yield (
        "The friction against Γ = 0.02",
        [
            (f"{m}/{s}", f"psld-0.02/{s}")
            for s in ("em-quadratic-50", "em-uniform-100", "multistep-10")
            for m in ("cld", "psld-0.005", "psld-0.1", "psld-0.25", "psld-0.5")
        ],
    )
    yield (
        "Few evaluations: multistep at 10 against EM at 100",
        [(f"{m}/multistep-10", f"{m}/em-quadratic-100") for m in models],
    )


if __name__ == "__main__":
    main()
