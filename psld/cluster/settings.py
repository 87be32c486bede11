"""Settings of `psld launch`: where and how a training runs, but not what is trained."""

import shlex
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from psld.config.settings import Settings


class LaunchSettings(Settings):
    """The resources of a training and where it runs; an empty string means none is given."""

    command: list[str] = Field(min_length=1)
    """The command that each rank runs, with its overrides."""
    where: Literal["auto", "slurm", "here"] = "auto"
    """`auto`: as a Slurm job if there is sbatch, else in processes of this machine."""
    runs: str = "runs"
    """Folder of run directories; the files of launches are in its `launches`."""
    nodes: int = Field(1, ge=1)
    ranks_per_node: int | None = Field(None, ge=1)
    """Null: one per GPU, of the job or of this machine; one without GPUs."""
    cpus_per_rank: int = Field(1, ge=1)
    gpus_per_node: int | None = Field(None, ge=1)
    gres: str | None = None
    """Generic resources per node, such as gpu:a100:4, for sites that count GPUs this way."""
    memory_mb: int | None = Field(None, ge=1)
    """Memory per node. Null: the partition's default."""
    minutes: int = Field(60, ge=1)
    """Time limit of one life; the training goes on in the next."""
    warning_seconds: int = Field(120, ge=1)
    """Seconds from the warning, at which the job saves a checkpoint, to its time limit."""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    additional: str | None = None
    """Other options of sbatch: `reservation=maintenance exclusive`."""
    detach: bool = False
    """On Ctrl-C leave the job alone; the same command returns to it."""

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_not_given(cls, value: Any) -> Any:
        return None if value == "" else value

    @model_validator(mode="after")
    def _values_fit(self) -> "LaunchSettings":
        if any(not name or name.startswith("-") for name in self.additional_options):
            raise ValueError(
                f"additional: options without dashes, `name=value` or `name`; got {self.additional}"
            )
        if self.warning_seconds >= 60 * self.minutes:
            raise ValueError(
                f"warning_seconds: {self.warning_seconds} s before its end, a life of "
                f"{self.minutes} minutes has not begun; increase minutes or reduce warning_seconds"
            )
        return self

    @property
    def additional_options(self) -> dict[str, str | bool]:
        options = (option.partition("=") for option in shlex.split(self.additional or ""))
        return {name: value if equals else True for name, equals, value in options}

    @property
    def ranks_of_slurm_node(self) -> int:
        """Ranks per node of a Slurm job: as given, or one per GPU."""
        return self.ranks_per_node or self.gpus_per_node or _gpus_in(self.gres) or 1


def _gpus_in(gres: str | None) -> int:
    """The number in `gpu:4` or `gpu:a100:4`; 1 in plain `gpu`. Several kinds are added."""
    resources = [resource.split(":") for resource in (gres or "").split(",")]
    counts = [rest[-1:] for kind, *rest in resources if kind == "gpu"]
    return sum(int(count[0]) if count and count[0].isdigit() else 1 for count in counts)
