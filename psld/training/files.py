"""The exported model and the history in the run directory of a training. Imports no torch.

Snakemake deletes the outputs of a rule before it reruns the rule. A training therefore stores its
results in its run directory and copies them to the output folder. If Snakemake reruns the rule,
the training only copies the results again.

wandb gets all data of a training from the history and the previews in the run directory. The data
are logged during the training in online mode, or later by `psld wandb sync`.
"""

import secrets
import shutil
from contextlib import suppress
from filecmp import cmpfiles
from pathlib import Path

from pydantic import ConfigDict

from psld.config.settings import Settings, read_record, with_digest, write_record
from psld.models.manifest import (
    MANIFEST,
    WEIGHTS,
    GuideManifest,
    ModelManifest,
    TrainedManifest,
    model_files,
    read_manifest,
)
from psld.training.settings import RunSettings
from psld.utils.errors import UserError
from psld.utils.files import atomic_path, read_json, write_json

HISTORY = "history.json"
"""The name of the history file, in a run directory and next to the weights of a model."""
WANDB = "wandb.json"
"""The name of a file in the run directory. The file identifies the run in wandb."""


class HistoryEntry(Settings):
    """The values logged at one step. Extra fields hold, for example, the learning rate."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float]

    step: int
    time: float
    """Unix time in seconds."""
    loss: float


class TrainingHistory(Settings):
    """The values that a training has logged, one entry per logged step."""

    entries: list[HistoryEntry]

    @classmethod
    def read(cls, path: Path) -> "TrainingHistory":
        """Read history.json. Raises UserError if the file is missing, damaged or not a history."""
        return read_record(cls, path, f"{path}: not a training history; train the model again")


def write_history(folder: Path, entries: list[dict[str, float]]) -> None:
    write_json(folder / HISTORY, with_digest({"entries": entries}))


def preview_path(run: Path, step: int) -> Path:
    return run / "previews" / f"{step}.png"


class WandbRun(Settings):
    """The run of a training in wandb; the fields are arguments of `wandb.init`."""

    id: str
    """Id of the run, chosen when the training first starts. A resumed training keeps the id."""
    name: str
    group: str
    """Name of the grid."""
    job_type: str
    """Name of the command."""
    project: str
    entity: str | None

    @classmethod
    def read(cls, run: Path) -> "WandbRun | None":
        """Read the file in a run directory.

        Return None if the file is missing: wandb is disabled, or the training has not started.
        """
        path = run / WANDB
        wrong = f"{path}: does not identify a run in wandb; delete it to start a new run"
        return read_record(cls, path, wrong) if path.exists() else None

    @classmethod
    def write(cls, run: Path, settings: RunSettings) -> None:
        earlier = cls.read(run)
        named = cls(
            id=earlier.id if earlier else f"{run.name}-{secrets.token_hex(3)}",
            name=settings.name,
            group=settings.grid_name,
            job_type=settings.command,
            project=settings.wandb.project,
            entity=settings.wandb.entity,
        )
        write_record(run / WANDB, named)


def export_folder(run: Path) -> Path:
    return run / "model"


def is_exported(run: Path) -> bool:
    """Check if the training of this run directory has finished."""
    return (export_folder(run) / MANIFEST).exists()


def whole_export(run: Path) -> TrainedManifest | None:
    """Return the manifest of an exported model or guide; None if a file is missing or damaged."""
    # Imported late: it imports numpy, which takes 0.1 seconds, and every job of Snakemake imports
    # this module.
    from psld.utils.tensors import load_tensors

    folder = export_folder(run)
    with suppress(UserError):
        is_guide = read_json(folder / MANIFEST, dict).get("kind") == "guide"
        manifest = read_manifest(folder, GuideManifest if is_guide else ModelManifest)
        load_tensors(folder / WEIGHTS, "weights", "train it again", manifest.weights_sha256)
        TrainingHistory.read(folder / HISTORY)
        return manifest
    return None


def note_replaced(run: Path, output: Path) -> None:
    """Print a line if `publish` will replace the results of another training in `output`."""
    with suppress(UserError):  # Print nothing if the output is missing or damaged.
        earlier = Path(str(read_json(output / MANIFEST, dict).get("run")))
        if earlier != run:
            other = f"stay in {export_folder(earlier)}" if is_exported(earlier) else "are lost"
            print(f"{output}: replaces the weights of another training, which {other}", flush=True)


def publish(run: Path, output: Path) -> bool:
    """Copy the results to the output folder. Return False if the folder already has equal files."""
    results = export_folder(run)
    files = model_files(results)
    equal, _, _ = cmpfiles(results, output, files, shallow=False)
    if len(equal) == len(files):
        return False
    for name in files:
        with atomic_path(output / name) as partial:
            shutil.copyfile(results / name, partial)
    return True
