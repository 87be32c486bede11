"""Settings of `psld launch`: where and how a training runs.

Most have the names of the resources in TRAINING_JOB (workflow/rules/common.smk), which sets them.
"""

import shlex
from typing import Any, Literal

from pydantic import Field, model_validator

from psld.config.settings import Settings

SET_BY_LAUNCH = {
    *("array", "cpus-per-task", "error", "job-name", "mem", "no-requeue", "nodes", "ntasks"),
    *("ntasks-per-node", "open-mode", "output", "time"),
}
"""Options of sbatch that a launch sets itself: it finds the job by its name, the logs by theirs."""


class LaunchSettings(Settings):
    """The resources of a job and the place where it runs."""

    command: list[str] = Field(min_length=1)
    """The words after `--`, which each rank runs: `train …` or `train_guide …`."""
    where: Literal["auto", "slurm", "here"] = "auto"
    """`auto`: as a Slurm job if there is sbatch, else in processes of this machine."""
    nodes: int = Field(1, ge=1)
    tasks_per_node: int | None = Field(None, ge=1)
    """Ranks. None: one per GPU, of the job or of this machine; one without GPUs."""
    cpus_per_task: int | None = Field(None, ge=1)
    """Per rank. None: 4 if the job asks for GPUs, whose noise several cores draw, else 1."""
    gpus_per_node: int | None = Field(None, ge=1)
    gres: str | None = None
    """Generic resources per node, such as gpu:a100:4, for sites that count GPUs this way."""
    mem_mb: int | None = Field(None, ge=1)
    """Memory per node. None: the partition's default."""
    runtime: int = Field(60, ge=1)
    """Time limit of the job, in minutes; then it is queued again, and the training goes on."""
    warning_seconds: int = Field(120, ge=1)
    """Seconds from the warning, at which the job saves a checkpoint, to its time limit."""
    slurm_partition: str | None = None
    slurm_account: str | None = None
    slurm_additional_parameters: str | None = None
    """Other options of sbatch: `qos=high exclude=node3 exclusive`."""
    detach: bool = False
    """On Ctrl-C leave the job alone; the same command returns to it."""

    @model_validator(mode="before")
    @classmethod
    def _empty_is_unset(cls, content: dict[str, Any]) -> dict[str, Any]:
        # A rule passes an empty text for a resource that is not set.
        return {key: value for key, value in content.items() if value != ""}

    @model_validator(mode="after")
    def _values_fit(self) -> "LaunchSettings":
        if any(not name or name.startswith("-") for name in self.additional_options):
            raise ValueError(
                "slurm_additional_parameters: options without dashes, `name=value` or `name`; got "
                f"{self.slurm_additional_parameters}"
            )
        names = {name.replace("_", "-") for name in self.additional_options}
        if taken := ", ".join(sorted(names & SET_BY_LAUNCH)):
            raise ValueError(f"slurm_additional_parameters: leave out what a launch sets: {taken}")
        if self.warning_seconds >= 60 * self.runtime:
            raise ValueError(
                f"warning_seconds: {self.warning_seconds} s before its end, a job of "
                f"{self.runtime} minutes has not begun; increase runtime or reduce warning_seconds"
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
        """Ranks per node of a Slurm job: as given, or one per GPU."""
        return self.tasks_per_node or self.gpus_per_node or _gpus_in(self.gres) or 1

    def options(self) -> dict[str, Any]:
        """Return what submitit asks sbatch for: six options of its own, and sbatch's."""
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
                "--kill-on-bad-exit=1",  # A dead rank ends the others; they would wait for it.
                "--wait=0",  # No limit (WaitTime) for the first rank, which exports the model last.
                # Since Slurm 22.05 srun does not take this from sbatch.
                f"--cpus-per-task={cores}",
            ],
            "additional_parameters": {key: value for key, value in sbatch.items() if value},
        }


def _gpus_in(gres: str | None) -> int:
    """The number in `gpu:4` or `gpu:a100:4`; 1 in plain `gpu`. Several kinds are added."""
    resources = [resource.split(":") for resource in (gres or "").split(",")]
    counts = [rest[-1:] for kind, *rest in resources if kind == "gpu"]
    return sum(int(count[0]) if count and count[0].isdigit() else 1 for count in counts)
