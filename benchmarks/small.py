"""The comparisons of docs/small.md: differences of two cells of the grid `small`, with p-values.

python -m benchmarks.small

Reads the results of `make small` in the working directory. A difference is paired by samples where
both cells draw the same noise. The p-values are not corrected for the number of comparisons.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from psld.grid import paths
from psld.grid.loading import load_grid
from psld.grid.measured import Measured, read_measured
from psld.grid.places import Evaluation

GRID = "small"
BUDGETS = (10, 25, 50, 100, 250)
Pair = tuple[str, str]
"""Two cells: the first minus the second."""


def main() -> None:
    grid = load_grid(GRID)
    [(metric, samples)] = {(e.metric, e.samples) for e in grid.evaluations}
    cells = Path(paths.cell_result(grid.name, "cell")).parent

    def measured(cell: str) -> Measured:
        model, _, sampler = cell.partition("/")
        found = read_measured(grid, cells, Evaluation(model, sampler, metric, samples))
        if not found.results:
            print(f"error: {cells}/{cell}.json: no result; run make small first", file=sys.stderr)
            sys.exit(2)
        return found

    for question, pairs in questions(grid.samplers):
        rows = [(one, other, measured(one), measured(other)) for one, other in pairs]
        print(f"\n{question}\n")
        print("| cells | value | minus | difference | p | paired |")
        print("|:--|--:|--:|--:|--:|:--|")
        for one, other, a, b in rows:
            found = a.difference(b)
            values = f"{a.interval().value:.2f} | {b.interval().value:.2f}"
            paired = "yes" if found.paired else "no"
            print(
                f"| {one} − {other} | {values} | {found.value:+.2f} | {found.p_value:.1g} "
                f"| {paired} |"
            )


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
