"""All metrics of a cell in one pass over its shards, against one command for each metric.

python -m benchmarks.evaluation FOLDER
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.timing import compare
from psld.commands.evaluate import expand
from psld.config.overrides import take
from psld.grid import paths
from psld.grid.cells import find_cell

CELL = "demo/psld-0.02/em-quadratic-40"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the demo ran")
    with contextlib.chdir(parser.parse_args().folder), tempfile.TemporaryDirectory() as written:
        grid, model, sampler = find_cell(CELL)
        output = f"output={written}/result.json"
        _, alone = take("cell", expand([f"cell={CELL}"]))
        single = []
        for evaluation in grid.evaluations_by_cell[f"{model}/{sampler}"]:
            metric = grid.metric(evaluation.metric)
            place = (grid.models[model].dataset, metric.features)
            trained = metric.extractor.kind == "classifier"
            extractor = paths.extractor_folder(*place) if trained else "null"
            single.append(
                [
                    *alone,
                    output,
                    f"samples={evaluation.samples}",
                    f"metric={evaluation.metric}",
                    f"reference={paths.reference_folder(*place)}",
                    f"extractor={extractor}",
                ]
            )
        compare(
            f"{CELL}: {len(single)} metrics in one pass against {len(single)} commands",
            lambda: evaluate([f"cell={CELL}", output]),
            lambda: [evaluate(words) for words in single],
        )


def evaluate(words: list[str]) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "psld", "evaluate", *words]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
