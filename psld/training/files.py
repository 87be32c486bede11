"""The files of a training's run directory, for readers without torch: its export and its history.

Snakemake deletes the outputs of a rule before it reruns the rule. A training keeps its results in
its run directory and copies them to the output folder, so that such a rerun costs a copy.

The history and the previews in the run directory are the only source of its run in wandb: the
training logs from them if it is online, and `psld wandb sync` uploads from them.
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
    """Return the manifest of the model or guide in a run directory; None if it is not whole."""
    # It imports numpy, which takes a tenth of a second; every job of Snakemake imports this file.
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
    """Print a line if `publish` is going to replace the results of another training."""
    with suppress(UserError):  # nothing is there, or it is damaged
        earlier = Path(str(read_json(output / MANIFEST, dict).get("run")))
        if earlier != run:
            other = f"stay in {export_folder(earlier)}" if is_exported(earlier) else "are lost"
            print(f"{output}: replaces the weights of another training, which {other}", flush=True)


def publish(run: Path, output: Path) -> bool:
    """Copy the results to the output folder; return False if they are there already."""
    results = export_folder(run)
    files = model_files(results)
    equal, _, _ = cmpfiles(results, output, files, shallow=False)
    if len(equal) == len(files):
        return False
    for name in files:
        with atomic_path(output / name) as partial:
            shutil.copyfile(results / name, partial)
    return True
