"""What the rules share: the grids, and the one place where names become paths."""

import shlex
from pathlib import Path

from snakemake.exceptions import WorkflowError

from psld.errors import UserError
from psld.grid import load_grid
from psld.samplers.settings import shards_needed

CONFIGS = Path(workflow.basedir) / "configs"


def load_grids():
    """Every grid of configs/grid by its name."""
    try:
        return {
            path.stem: load_grid(path.stem, CONFIGS)
            for path in sorted((CONFIGS / "grid").glob("*.yaml"))
        }
    except UserError as error:
        raise WorkflowError(str(error))


GRIDS = load_grids()
DATASETS = {name: made for grid in GRIDS.values() for name, made in grid.datasets.items()}
METRICS = {name: made for grid in GRIDS.values() for name, made in grid.metrics.items()}


wildcard_constraints:
    grid="|".join(GRIDS),
    dataset="|".join(DATASETS),
    metric="|".join(METRICS),
    model=r"[^/]+",
    sampler=r"[^/]+",
    samples=r"\d+",
    shard=r"\d{5}",


def model_of(wildcards):
    return GRIDS[wildcards.grid].models[wildcards.model]


def sampler_of(wildcards):
    return GRIDS[wildcards.grid].samplers[wildcards.sampler]


def dataset_of(wildcards):
    return model_of(wildcards).dataset


def overrides(composed):
    """The Hydra overrides of a model or sampler, quoted for the shell."""
    return shlex.join(composed.overrides)


def extractor_manifest(dataset, metric):
    """The manifest of a trained extractor, for the metrics that have one."""
    if METRICS[metric]["extractor"]["kind"] == "classifier":
        return [f"features/{dataset}/{metric}/manifest.json"]
    return []


def extractor_folder(dataset, metric):
    return f"features/{dataset}/{metric}" if extractor_manifest(dataset, metric) else "null"


def metrics_file(grid, evaluation):
    return f"results/cells/{grid}/{evaluation.cell}/{evaluation.file_name}"


def results_of_cell(grid, cell):
    return [metrics_file(grid, e) for e in GRIDS[grid].evaluations_of(cell)]


def evaluations_of_table(grid, table):
    rows = GRIDS[grid].table_evaluations(table)
    return sorted({metrics_file(grid, e) for row in rows for e in row if e is not None})


def results_of_table(grid, table):
    return [f"results/tables/{grid}/{table}.{ending}" for ending in ("md", "csv", "tex", "html")]


def results_of_grid(grid):
    tables = [file for table in GRIDS[grid].file.tables for file in results_of_table(grid, table)]
    galleries = [f"results/figures/{grid}/samples/{model}.png" for model in GRIDS[grid].models]
    plots = [f"results/figures/{grid}/nfe.{ending}" for ending in ("png", "svg")]
    cells = [file for cell in GRIDS[grid].cells for file in results_of_cell(grid, cell)]
    return tables + galleries + plots + cells


def shards_of(wildcards):
    grid = GRIDS[wildcards.grid]
    count = shards_needed(int(wildcards.samples), grid.file.shard_size)
    folder = f"samples/{wildcards.grid}/{wildcards.model}/{wildcards.sampler}"
    return [f"{folder}/{shard:05d}.h5" for shard in range(count)]
