"""The history of a training and its previews, in its run directory, for readers without torch.

They are the only source of its run in wandb: the training logs from them if it is online, and
`psld wandb sync` uploads from them.
"""

import secrets
from pathlib import Path

from pydantic import ConfigDict

from psld.config.settings import Settings, read_record, with_digest, write_record
from psld.training.settings import RunSettings
from psld.utils.files import write_json

HISTORY = "history.json"
"""In a run directory, and next to a model's weights."""
WANDB = "wandb.json"
"""In a run directory: the training's run in wandb."""


class HistoryEntry(Settings):
    """The values at one step of a training. Some have more: a rate, a peak, an accuracy."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float]

    step: int
    time: float
    """Unix time in seconds."""
    loss: float


class TrainingHistory(Settings):
    """The values that a training logged, step by step."""

    entries: list[HistoryEntry]

    @classmethod
    def read(cls, path: Path) -> "TrainingHistory":
        """Read history.json. Raises UserError if it is missing, damaged or something else."""
        return read_record(cls, path, f"{path}: not a training history; train the model again")


def write_history(folder: Path, entries: list[dict[str, float]]) -> None:
    write_json(folder / HISTORY, with_digest({"entries": entries}))


def preview_path(run: Path, step: int) -> Path:
    """Return the path of the picture of a preview."""
    return run / "previews" / f"{step}.png"


class WandbRun(Settings):
    """The run of a training in wandb, in the words of `wandb.init`."""

    id: str
    """Made at the first start; a resumed training keeps it."""
    name: str
    group: str
    """The grid."""
    job_type: str
    """The command."""
    project: str
    entity: str | None

    @classmethod
    def read(cls, run: Path) -> "WandbRun | None":
        """Read the file in a run directory; None if wandb is off, or the training did not start."""
        path = run / WANDB
        wrong = f"{path}: not the name of a run in wandb; delete it to begin another run"
        return read_record(cls, path, wrong) if path.exists() else None

    @classmethod
    def write(cls, run: Path, settings: RunSettings, job_type: str) -> None:
        """Write the file at the start of a training."""
        earlier = cls.read(run)
        named = cls(
            id=earlier.id if earlier else f"{run.name}-{secrets.token_hex(3)}",
            name=settings.name,
            group=settings.grid_name,
            job_type=job_type,
            project=settings.wandb.project,
            entity=settings.wandb.entity,
        )
        write_record(run / WANDB, named)
