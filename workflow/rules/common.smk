"""The grids and wildcard patterns; psld/grid/workflow.py finds the inputs and outputs of each job."""

import re
import sys

from psld.config.locations import config_names
from psld.config.parts import imported
from psld.grid.records import dataset_digest
from psld.grid.rows import decisive_content
from psld.grid.workflow import Workflow
from psld.utils.errors import in_one_line
from psld.utils.files import digest_of

NOTED = set()


def note_datasets(grid):
    """Print the changes of each prepared dataset of a grid, once for each dataset."""
    # Imported here, because jobs do not need this module.
    from psld.data.preparation import notes_on_prepared

    words = [word for model in grid.file.trainings for word in grid.file.overrides(model)]
    changed = f"{grid.name}/" if any(word.startswith("dataset.") for word in words) else ""
    for name in grid.datasets.keys() - NOTED:
        NOTED.add(name)
        for line in notes_on_prepared(f"{changed}{name}", grid.datasets[name].settings):
            print(line, file=sys.stderr)


def load_networks(features):
    """Load the extractors whose weights are downloaded, so that a failed download stops the run early."""
    for extractor in {each.reference.metric.extractor for each in features}:
        if extractor.downloads and not extractor.trains:
            from psld.metrics.extraction import load_extractor  # imports torch

            load_extractor(imported(extractor))


with in_one_line():
    GRIDS = Workflow.load(seen=note_datasets if workflow.is_main_process else None)


if workflow.is_main_process:
    for name, error in GRIDS.broken.items():
        print(f"grid {name} is skipped: {error}", file=sys.stderr)


wildcard_constraints:
    grid="|".join(GRIDS.files),
    dataset="|".join(map(re.escape, config_names("dataset"))),
    features=r"[^/]+",
    start=r"[^/]+",
    model=r"[^/]+",
    guide=r"[^/]+",
    sampler=r"[^/]+-[^/]+",  # FAMILY-BUDGET
    first=r"\d{5}",
    last=r"\d{5}",


# The resources of a training job. A site sets them in its profile (set-resources: train: nodes: 4);
# an empty value means unset. Resources are not parameters, so changing them invalidates no training.
# Each resource is a setting of `psld launch` (psld/cluster/settings.py).
TRAINING_JOB = {
    "where": "here",  # or slurm
    "nodes": 1,
    "tasks_per_node": "",  # ranks; empty: one per GPU
    "cpus_per_task": "",  # per rank; empty: 4 with GPUs, else 1
    "gpus_per_node": "",
    "gres": "",
    "mem_mb": 16000,  # per node
    "runtime": 1440,  # time limit in minutes; the job saves and is requeued before the limit
    "warning_seconds": 300,  # the job saves this many seconds before the time limit
    "slurm_partition": "",
    "slurm_account": "",
    "slurm_additional_parameters": "",
    "detach": "false",
}
LAUNCH = " ".join(
    ["python -m psld launch", *(f"{key}={{resources.{key}:q}}" for key in TRAINING_JOB), "--"]
)
