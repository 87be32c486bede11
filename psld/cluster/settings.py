"""Settings of `psld launch`: where and how a training runs.

The workflow sets these settings from Snakemake resources of the same names (TRAINING_JOB in
workflow/rules/common.smk).
"""

import shlex
from typing import Any, Literal

from pydantic import Field, model_validator

from psld.config.settings import Settings

SET_BY_LAUNCH = {
    *("array", "cpus-per-task", "error", "job-name", "mem", "no-requeue", "nodes", "ntasks"),
    *("ntasks-per-node", "open-mode", "output", "time"),
}
"""Options of sbatch that users may not set, because psld launch sets them itself. For example, psld
launch finds jobs and logs by their names."""


class LaunchSettings(Settings):
    """The resources of a job and the place where it runs."""

    command: list[str] = Field(min_length=1)
    """The command that each rank runs: `train …` or `train_guide …`, given after `--`."""
    where: Literal["auto", "slurm", "here"] = "auto"
    """`slurm` runs the command as a Slurm job, and `here` runs it on this machine. `auto` means
    `slurm` if sbatch is installed, and `here` otherwise."""
    nodes: int = Field(1, ge=1)
    """Number of nodes of the job."""
    tasks_per_node: int | None = Field(None, ge=1)
    """Ranks per node. Null means one rank per GPU, or one rank if there is no GPU."""
    cpus_per_task: int | None = Field(None, ge=1)
    """CPU cores per rank. Null means 4 cores for a job with GPUs, because several cores draw noise,
    and 1 core for a job without GPUs."""
    gpus_per_node: int | None = Field(None, ge=1)
    """Number of GPUs per node of a Slurm job."""
    gres: str | None = None
    """Generic resources per node, such as gpu:a100:4, for sites that request GPUs this way."""
    mem_mb: int | None = Field(None, ge=1)
    """Memory per node in MB. Null means the default of the partition."""
    runtime: int = Field(60, ge=1)
    """Time limit of the job in minutes. Before this limit, the job saves a checkpoint and requeues
    itself; the requeued job resumes the training."""
    warning_seconds: int = Field(120, ge=1)
    """Seconds before the time limit at which the job saves a checkpoint and requeues itself."""
    slurm_partition: str | None = None
    """Partition of the job. Null means the default of the cluster."""
    slurm_account: str | None = None
    """Account of the job. Null means the default of the user."""
    slurm_additional_parameters: str | None = None
    """Other options of sbatch, such as `qos=high exclude=node3 exclusive`."""
    detach: bool = False
    """Do not cancel the job on Ctrl-C. Run the same command again to wait for the job."""

    @model_validator(mode="before")
    @classmethod
    def _empty_is_unset(cls, content: dict[str, Any]) -> dict[str, Any]:
        # A rule passes an empty string for a resource that is not set.
        return {key: value for key, value in content.items() if value != ""}

    @model_validator(mode="after")
    def _values_fit(self) -> "LaunchSettings":
        if any(not name or name.startswith("-") for name in self.additional_options):
            raise ValueError(
                "slurm_additional_parameters: write options without dashes, as `name=value` or "
                f"`name`; got {self.slurm_additional_parameters}"
            )
        names = {name.replace("_", "-") for name in self.additional_options}
        if taken := ", ".join(sorted(names & SET_BY_LAUNCH)):
            raise ValueError(
                f"slurm_additional_parameters: remove options that psld launch sets: {taken}"
            )
        if self.warning_seconds >= 60 * self.runtime:
            raise ValueError(
                f"warning_seconds: {self.warning_seconds} s is not less than the runtime of "
                f"{self.runtime} minutes; increase runtime or reduce warning_seconds"
            )
        return self

    @property
    def additional_options(self) -> dict[str, str | bool]:
        try:
            words = shlex.split(self.slurm_additional_parameters or "")
        except ValueError as error:
            raise ValueError(f"slurm_additional_parameters: {error}") from None
        options = (option.partition("=") for option in words)
        return {name: value if equals else True for name, equals, value in options}

    @property
    def ranks_of_slurm_node(self) -> int:
        """The number of ranks per node of a Slurm job: `tasks_per_node`, or one rank per GPU."""
        return self.tasks_per_node or self.gpus_per_node or _gpus_in(self.gres) or 1

    def options(self) -> dict[str, Any]:
        """Return the parameters of submitit; `additional_parameters` are options of sbatch."""
        gpus = any(option.startswith("gpus") for option in self.additional_options)
        gpus = gpus or self.gpus_per_node or _gpus_in(self.gres)
        cores = self.cpus_per_task or (4 if gpus else 1)
        sbatch = {
            "gpus-per-node": self.gpus_per_node,
            "gres": self.gres,
            "mem": self.mem_mb and f"{self.mem_mb}M",
            "partition": self.slurm_partition,
            "account": self.slurm_account,
            "requeue": True,
            **self.additional_options,
        }
        return {
            "time": self.runtime,
            "nodes": self.nodes,
            "ntasks_per_node": self.ranks_of_slurm_node,
            "cpus_per_task": cores,
            "signal_delay_s": self.warning_seconds,
            "srun_args": [
                "--kill-on-bad-exit=1",  # If a rank fails, end the others, which would wait for it.
                "--wait=0",  # No time limit: rank 0 exports the model after the other ranks exit.
                # Since Slurm 22.05, srun does not inherit this option from sbatch.
                f"--cpus-per-task={cores}",
            ],
            "additional_parameters": {key: value for key, value in sbatch.items() if value},
        }


def _gpus_in(gres: str | None) -> int:
    """Return the number of GPUs in generic resources such as `gpu`, `gpu:4` and `gpu:a100:4`."""
    resources = [resource.split(":") for resource in (gres or "").split(",")]
    counts = [rest[-1:] for kind, *rest in resources if kind == "gpu"]
    return sum(int(count[0]) if count and count[0].isdigit() else 1 for count in counts)
