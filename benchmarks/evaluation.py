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
from psld.grid.cache import load_grid

CELL = "psld-0.02/em-quadratic-40"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the demo ran")
    with contextlib.chdir(parser.parse_args().folder), tempfile.TemporaryDirectory() as written:
        settings = load_grid("demo").cells[CELL].evaluate_job.settings
        output = f"output={written}/result.json"
        alone = [
            f"model={settings.model}",
            f"shards={settings.shards}",
            f"shard_size={settings.shard_size}",
            f"sampler={settings.sampler.integrator}",
            f"sampler.striding={settings.sampler.striding}",
            f"sampler.steps={settings.sampler.steps}",
            output,
        ]
        single = []
        for measurement in settings.measurements:
            metric = measurement.metric
            folders = settings.features[metric.features]
            own = (f"metric={metric.name}", f"samples={measurement.samples}")
            places = (f"reference={folders.reference}", f"extractor={folders.extractor or 'null'}")
            single.append([*alone, *own, *places])
        compare(
            f"{CELL}: {len(single)} metrics in one pass against {len(single)} commands",
            lambda: evaluate([f"cell=demo/{CELL}", output]),
            lambda: [evaluate(words) for words in single],
        )


def evaluate(words: list[str]) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "psld", "evaluate", *words]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
