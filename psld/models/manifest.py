"""The files of a model or guide: weights, history, manifest and code. Imports no torch."""

from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field

from psld.config.settings import (
    MadeRecord,
    Settings,
    load_record,
    read_record,
)
from psld.data.units import BYTES, Units
from psld.models.settings import GuideModelSettings, ModelSettings, TrainedSettings
from psld.utils.code import COPIES
from psld.utils.errors import UserError
from psld.utils.files import read_json

MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
FILES = (WEIGHTS, "history.json", MANIFEST)
"""The files of a model in the order in which they are written. If the manifest exists, all files
exist, because the manifest is written last."""


class Imported(Settings):
    """The official checkpoint from which weights were imported."""

    file: str
    sha256: str
    weights: Literal["ema", "online"]
    """`ema`: the moving average of the weights; `online`: the weights without averaging."""


class TrainedManifest(MadeRecord, extra="ignore"):
    """The record of trained weights: their settings, data and origin."""

    name: str
    grid: str
    settings: TrainedSettings
    dataset_digest: str | None
    """Digest of the training data; null for imported weights whose dataset was not prepared."""
    class_names: tuple[str, ...] = ()
    """Class names of the training data; empty if there are no names or no prepared dataset."""
    step: int | None
    images_seen: int | None
    parameters: int
    seconds: float | None = None
    """Wall-clock time of the training loop; null for imported weights."""
    device: str | None = None
    ranks: int | None = None
    micro_batch: int | None = None
    """Images per forward pass on one rank; null: all images of the rank's part of the batch."""
    run: str | None = None
    deviation: float = Field(default=1.0, exclude_if=lambda deviation: deviation == 1)
    """s, the standard deviation of the training images; 1 if the objective does not need s."""
    units: Units = Field(default=BYTES, exclude_if=lambda units: units == BYTES)
    """Units of the dataset, which determine how the network sees its values; absent for bytes."""
    imported: Imported | None = None
    saved: bool = Field(default=False, exclude_if=lambda saved: not saved)
    """True if the weights were written by `psld.save`, not trained by a command."""
    weights_sha256: str

    @property
    def init(self) -> dict[str, str] | None:
        """The name and the digest of the pretrained weights; None for random initial weights."""
        if (init := getattr(self.settings, "init", None)) is None:
            return None
        name = init.model.name.removeprefix("models/")
        return {"model": name, "weights_sha256": init.model.content}

    def identity(self) -> dict[str, Any]:
        """Return the fields that are copied into results obtained with these weights."""
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
    """Accuracy for each range of noise levels, from low to high noise, measured on the test split,
    or on the training split if there is no test split."""


def kind_of(settings: TrainedSettings) -> type[ModelManifest | GuideManifest]:
    """Return the manifest class for a model or a guide."""
    return ModelManifest if settings.makes == "model" else GuideManifest


M = TypeVar("M", bound=TrainedManifest)


def read_manifest(folder: str | Path, kind: type[M] = ModelManifest) -> M:
    """Read a manifest. Raises UserError if the file is missing, damaged or not of class `kind`."""
    path, what = Path(folder) / MANIFEST, kind.model_fields["kind"].default
    other = what
    with suppress(UserError):  # read_record reports the error
        other = read_json(path, dict).get("kind", what)
    wrong = f"{path}: not the manifest of a {what}"
    if other != what:
        raise UserError(f"{wrong}, but of a {other}; give the folder of a {what}")
    return read_record(kind, path, f"{wrong}; train the {what} again")


def model_files(folder: Path) -> list[str]:
    """Return the names of a model's files. The code of custom parts is first, the manifest last."""
    code = sorted(str(file.relative_to(folder)) for file in (folder / COPIES).rglob("*.py"))
    return [*code, *(name for name in FILES if (folder / name).exists())]


def imported_file(folder: str | Path) -> str | None:
    """Return the name of the checkpoint of imported weights; None if weights were not imported."""
    with suppress(UserError):  # A missing or damaged manifest names no checkpoint.
        if imported := read_json(Path(folder) / MANIFEST, dict).get("imported"):
            return str(imported["file"])
    return None


def make_way(folder: str | Path, sha256: str, replace: bool) -> None:
    """Remove the weights in a folder unless they come from the checkpoint with this SHA-256.

    Weights with a missing or damaged manifest are always removed, because they cannot be loaded.
    Raises UserError if the folder has weights of another origin and `replace` is false.
    """
    there: TrainedManifest | None = None
    for kind in (ModelManifest, GuideManifest):
        with suppress(UserError):
            there = load_record(kind, Path(folder) / MANIFEST, "")
    if there and there.imported and there.imported.sha256 == sha256:
        return
    if there and not replace:
        origin = f"the checkpoint {there.imported.file}" if there.imported else "a training here"
        raise UserError(f"{folder}: has weights from {origin}; set replace=true to replace them")
    for name in reversed(FILES):
        (Path(folder) / name).unlink(missing_ok=True)
