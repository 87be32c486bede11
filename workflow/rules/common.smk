"""The grids and wildcard patterns; psld/grid/workflow.py lists what each job reads and makes."""

from snakemake.exceptions import WorkflowError

from psld.grid import paths
from psld.grid.workflow import Workflow
from psld.utils.errors import UserError

try:
    GRIDS = Workflow.load(
        rules=(
            "prepare",
            "train_extractor",
            "reference",
            "train",
            "train_guide",
            "import_model",
            "import_guide",
            "sample",
            "evaluate",
            "likelihood",
            "tabulate",
            "figure",
            "page",
            "certify",
        )
    )
except UserError as error:
    raise WorkflowError(str(error))


wildcard_constraints:
    grid="|".join(GRIDS.grids),
    dataset="|".join(GRIDS.datasets),
    features="|".join(GRIDS.features),
    model=r"[^/]+",
    guide=r"[^/]+",
    sampler=r"[^/]+-[^/]+",  # FAMILY-BUDGET
    first=r"\d{5}",
    last=r"\d{5}",


# The resources of a training job. A site sets them in its profile (set-resources: train: nodes: 4);
# an empty value is unset. Resources are not parameters: changing them retrains nothing.
TRAINING_JOB = {
    "where": "here",  # or slurm
    "nodes": 1,
    "tasks_per_node": "",  # ranks; empty: one per GPU
    "cpus_per_task": 1,  # per rank
    "gpus_per_node": "",
    "gres": "",
    "mem_mb": 16000,  # per node
    "runtime": 1440,  # time limit in minutes; before it, the job saves and is queued again
    "warning_seconds": 300,  # seconds from the warning, at which the job saves, to the limit
    "slurm_partition": "",
    "slurm_account": "",
    "qos": "",
    "constraint": "",
    "exclude": "",
    "slurm_additional_parameters": "",
    "detach": "false",
}
LAUNCH = (
    "python -m psld launch where={resources.where} nodes={resources.nodes} ranks_per_node={resources.tasks_per_node} "
    "cpus_per_rank={resources.cpus_per_task} gpus_per_node={resources.gpus_per_node} "
    "gres='\"{resources.gres}\"' memory_mb={resources.mem_mb} minutes={resources.runtime} "
    "warning_seconds={resources.warning_seconds} partition='\"{resources.slurm_partition}\"' "
    "account='\"{resources.slurm_account}\"' qos='\"{resources.qos}\"' "
    "constraint='\"{resources.constraint}\"' exclude='\"{resources.exclude}\"' "
    "additional='\"{resources.slurm_additional_parameters}\"' detach={resources.detach} --"
)
