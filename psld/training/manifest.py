"""The manifest of a trained model or guide: one writer, one reader. No torch."""

from pathlib import Path
from typing import Any, Literal, TypeVar

from psld.config.settings import Settings, parse
from psld.training.settings import GuideModelSettings, ModelSettings, TrainedSettings
from psld.utils.errors import UserError
from psld.utils.files import read_json, write_json

MANIFEST = "manifest.json"


class Imported(Settings):
    """The official checkpoint that weights come from."""

    file: str
    sha256: str
    weights: Literal["ema", "online"]
    """The moving average, or the network as it was trained."""


class TrainedManifest(Settings):
    """What trained weights are and where they come from. Written last: then all files are there."""

    name: str
    """Name in the grid."""
    grid: str
    settings: TrainedSettings
    """What decides the weights."""
    dataset_digest: str | None
    """Digest of the training data; null for imported weights whose dataset was not at hand."""
    step: int | None
    images_seen: int | None
    parameters: int
    seconds: float | None
    """Wall-clock time of the training loop; null if imported."""
    device: str | None
    ranks: int | None
    run: str | None
    """The run directory."""
    imported: Imported | None = None
    weights_sha256: str
    """Of weights.safetensors."""
    versions: dict[str, str | None]
    """Of the software."""
    precision: dict[str, Any]
    """Flags of torch that decide how floats are rounded."""
    git_revision: str | None
    """Of the code; null outside a checkout."""

    def identity(self) -> dict[str, Any]:
        """What a result tells of the weights that it comes from."""
        kept = {"name", "weights_sha256", "dataset_digest", "step"}
        return {**self.model_dump(include=kept), "settings": self.settings.identity()}


class ModelManifest(TrainedManifest):
    """The manifest of a model."""

    kind: Literal["model"] = "model"
    settings: ModelSettings


class GuideManifest(TrainedManifest):
    """The manifest of a guide."""

    kind: Literal["guide"] = "guide"
    settings: GuideModelSettings
    accuracy_by_time: list[float] | None = None
    """Share of test images that are recognized at each noise level, from little to much noise."""


M = TypeVar("M", bound=TrainedManifest)


def read_manifest(folder: str | Path, kind: type[M] = ModelManifest) -> M:
    """Read the manifest of a model, or of a guide.

    Raises UserError if it is missing, damaged or foreign.
    """
    path = Path(folder) / MANIFEST
    content = read_json(path)
    wanted = kind.model_fields["kind"].default
    if not isinstance(content, dict) or content.get("kind") != wanted:
        raise UserError(f"{path}: not the manifest of a {wanted}; train the {wanted} again")
    return parse(kind, content, where=str(path))


def write_manifest(folder: str | Path, manifest: TrainedManifest) -> None:
    write_json(Path(folder) / MANIFEST, manifest.model_dump(mode="json"))
