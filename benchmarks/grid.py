"""Measure Snakemake's cost for a large artificial grid of 100 models × 100 samplers × 50 shards.

    python -m benchmarks.grid              # 10,000 cells, 10 shards per job
    python -m benchmarks.grid 10 10 10     # models, samplers, shards per job

The benchmark prints the CPU seconds of Snakemake and its child processes, and the peak memory.
"""

import sys
import tempfile
from pathlib import Path

import yaml

from benchmarks.timing import ROOT, used

SHARDS = 50
SHARD_SIZE = 1000


def made_up_grid(models: int, samplers: int, shards_per_job: int) -> dict:
    """Build a grid with one table. It has a row for each model and a column for each sampler."""
    budgets = range(10, 10 + samplers)
    return {
        "defaults": ["dataset=digits", "network=demo", "training=demo", "process=psld"],
        "metric": "fd-classifier",
        "samples": SHARDS * SHARD_SIZE,
        "shard_size": SHARD_SIZE,
        "shards_per_job": shards_per_job,
        "batch_size": 250,
        "seed": 0,
        "gallery": "em-10",
        "models": {f"m{i}": [f"process.gamma={0.01 + i / 1000}"] for i in range(models)},
        "samplers": {"em": {"overrides": ["sampler=em"], "budget": "sampler.steps"}},
        "tables": {
            "large-all": {
                "title": "All cells",
                "headings": ["model"],
                "cell": {"sampler": "em"},
                "columns": [{"label": str(budget), "budget": budget} for budget in budgets],
                "rows": [{"label": [f"m{i}"], "model": f"m{i}"} for i in range(models)],
            }
        },
    }


def cost(folder: Path, *command: str) -> str:
    """Run a command, and return a text with its CPU time and peak memory."""
    usage = used(folder, "-m", *command)
    seconds = usage.ru_utime + usage.ru_stime
    return f"{seconds:.1f} s of CPU, {usage.ru_maxrss / 2**20:.2f} GiB"


def main() -> None:
    models, samplers, shards_per_job = map(int, sys.argv[1:] or (100, 100, 10))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "configs" / "grid").mkdir(parents=True)
        grid = yaml.safe_dump(made_up_grid(models, samplers, shards_per_job), sort_keys=False)
        (folder / "configs" / "grid" / "large.yaml").write_text(grid)
        print(f"{models * samplers:,} cells of {SHARDS} shards, {shards_per_job} a job")
        snakemake = ("snakemake", "--snakefile", str(ROOT / "Snakefile"))
        plan = ("psld", "plan", "grid_name=large", "list=cells")
        runs = {
            "composing all grids": (*snakemake, "--list-target-rules"),
            "parsing again": (*snakemake, "--list-target-rules"),
            "a dry run of one cell": (
                *snakemake,
                "--dry-run",
                "--quiet",
                "all",
                "--",
                "large/m0/em-10",
            ),
            "listing the cells": plan,
            "a dry run of the grid": (*snakemake, "--dry-run", "--quiet", "all", "--", "large"),
        }
        for what, command in runs.items():
            print(f"{what}: {cost(folder, *command)}", flush=True)


if __name__ == "__main__":
    main()
