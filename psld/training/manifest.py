"""The files of a training, for readers without torch: its manifest, its export and its history.

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
from typing import Any, Literal, TypeVar

from pydantic import ConfigDict, Field

from psld.config.settings import (
    MadeRecord,
    Settings,
    load_record,
    read_record,
    with_digest,
    write_record,
)
from psld.training.settings import GuideModelSettings, ModelSettings, RunSettings, TrainedSettings
from psld.utils.code import COPIES
from psld.utils.errors import UserError
from psld.utils.files import atomic_path, read_json, write_json

MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
FILES = (WEIGHTS, "history.json", MANIFEST)
"""The manifest is written last: if it exists, so do the others."""


class Imported(Settings):
    """The official checkpoint that weights come from."""

    file: str
    sha256: str
    weights: Literal["ema", "online"]
    """The moving average, or the network as it was trained."""


class TrainedManifest(MadeRecord, extra="ignore"):
    """The record of trained weights: their settings, data and origin."""

    name: str
    grid: str
    settings: TrainedSettings
    dataset_digest: str | None
    """Digest of the training data; null for imported weights whose dataset was not prepared."""
    class_names: tuple[str, ...] = ()
    """Of the training data; empty if it has none, or if its dataset was not prepared."""
    step: int | None
    images_seen: int | None
    parameters: int
    seconds: float | None = None
    """Wall-clock time of the training loop; null if imported."""
    device: str | None = None
    ranks: int | None = None
    micro_batch: int | None = None
    """Images at once on a rank; null: its whole part of the batch."""
    run: str | None = None
    deviation: float = Field(default=1.0, exclude_if=lambda deviation: deviation == 1)
    """s of the training images, if the objective needs it: what the module was built with."""
    imported: Imported | None = None
    saved: bool = Field(default=False, exclude_if=lambda saved: not saved)
    """True if `psld.save` wrote the weights: no command trained them."""
    weights_sha256: str

    @property
    def init(self) -> dict[str, str] | None:
        """Name and digest of the weights from which the training started; None if random."""
        if (init := getattr(self.settings, "init", None)) is None:
            return None
        name = init.model.name.removeprefix("models/")
        return {"model": name, "weights_sha256": init.model.content}

    def identity(self) -> dict[str, Any]:
        """The part that is copied into the results of these weights."""
        kept = {
            "name",
            "weights_sha256",
            "dataset_digest",
            "step",
            "imported",
            "saved",
            "git_revision",
        }
        settings = self.settings.identity()
        return {**self.model_dump(include=kept), "init": self.init, "settings": settings}


class ModelManifest(TrainedManifest):
    kind: Literal["model"] = "model"
    settings: ModelSettings


class GuideManifest(TrainedManifest):
    kind: Literal["guide"] = "guide"
    settings: GuideModelSettings
    accuracy_by_time: list[float] | None = None
    """Share of test images, or of training images without a test split, that are recognized at each
    noise level, from little to much noise."""


def kind_of(settings: TrainedSettings) -> type[ModelManifest | GuideManifest]:
    """Return the manifest of what these settings make."""
    return ModelManifest if settings.makes == "model" else GuideManifest


M = TypeVar("M", bound=TrainedManifest)


def read_manifest(folder: str | Path, kind: type[M] = ModelManifest) -> M:
    """Read a manifest of this kind. Raises UserError if it is missing, damaged or foreign."""
    path, what = Path(folder) / MANIFEST, kind.model_fields["kind"].default
    other = what
    with suppress(UserError):  # read_record says what is wrong
        other = read_json(path, dict).get("kind", what)
    wrong = f"{path}: not the manifest of a {what}"
    if other != what:
        raise UserError(f"{wrong}, but of a {other}; give the folder of a {what}")
    return read_record(kind, path, f"{wrong}; train the {what} again")


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


def model_files(folder: Path) -> list[str]:
    """Return the names of a model's files, the manifest last: the code of its own parts, too."""
    code = sorted(str(file.relative_to(folder)) for file in (folder / COPIES).rglob("*.py"))
    return [*code, *(name for name in FILES if (folder / name).exists())]


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


def imported_file(folder: str | Path) -> str | None:
    """Return the name of the checkpoint that weights were imported from; None for other weights."""
    with suppress(UserError):  # nothing is there, or it is damaged
        if imported := read_json(Path(folder) / MANIFEST, dict).get("imported"):
            return str(imported["file"])
    return None


def make_way(folder: str | Path, sha256: str, replace: bool) -> None:
    """Remove weights that do not come from a checkpoint with this SHA-256, if there are any.

    Raises UserError if there are and `replace` is false. Without a whole manifest nothing can load
    the weights, so they are removed.
    """
    there: TrainedManifest | None = None
    for kind in (ModelManifest, GuideManifest):
        with suppress(UserError):
            there = load_record(kind, Path(folder) / MANIFEST, "")
    if there and there.imported and there.imported.sha256 == sha256:
        return
    if there and not replace:
        origin = f"the checkpoint {there.imported.file}" if there.imported else "a training here"
        raise UserError(f"{folder}: has weights from {origin}; replace=true replaces them")
    for name in reversed(FILES):
        (Path(folder) / name).unlink(missing_ok=True)


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
