"""A reference on disk: `features.safetensors` and, written last, `manifest.json`.

All metrics with the same extractor share it: its features are those of the training split, of the
test split if there is one, and of noise.
"""

from pathlib import Path

from psld.config.settings import MadeRecord, read_record
from psld.metrics.extractor import Extractor
from psld.metrics.features import Features
from psld.metrics.measure import Reference
from psld.metrics.settings import ExtractorSettings, MetricSettings
from psld.training.manifest import ModelManifest
from psld.utils.errors import UserError
from psld.utils.tensors import grouped, read_tensors, save_tensors

FEATURES = "features.safetensors"
MANIFEST = "manifest.json"
REMEDY = "run psld reference again"


class ReferenceManifest(MadeRecord):
    """The record of a reference: its extractor and its data."""

    extractor: ExtractorSettings
    truncated_reference: bool
    """True if the real images were truncated as samples are."""
    dataset: str
    """Name of the dataset."""
    dataset_digest: str
    """Digest of the dataset's pixels and labels."""
    images: dict[str, int]
    """Number of images of each part: train, test if the dataset has it, noise."""
    features_sha256: str
    """SHA-256 of `features.safetensors`."""
    extractor_digest: str
    """Digest of the extractor's architecture and weights."""
    extractor_test_accuracy: float | None
    """A classifier's test accuracy; null for other extractors and without a test split."""
    device: str
    """The device of the computation."""

    def images_of(self, split: str) -> int:
        """Return the number of images of `train`, `test` or `all`."""
        real = self.images["train"], self.images.get("test", 0)
        return sum(real) if split == "all" else self.images.get(split, 0)


def save_features(folder: str | Path, parts: dict[str, Features], origin: dict[str, str]) -> str:
    """Write the features of all parts, with the digests of what made them; return the SHA-256."""
    tensors = {
        f"{part}.{name}": tensor
        for part, features in parts.items()
        for name, tensor in features.tensors().items()
    }
    return save_tensors(Path(folder) / FEATURES, "features", tensors, origin)


def read_reference_manifest(folder: str | Path) -> ReferenceManifest:
    """Read a folder's manifest. Raises UserError if it is missing, damaged or foreign."""
    path = Path(folder) / MANIFEST
    return read_record(
        ReferenceManifest, path, f"{path}: not the manifest of a reference; {REMEDY}"
    )


def load_reference(folder: str | Path) -> tuple[Reference, ReferenceManifest]:
    """Read a reference. Raises UserError if a file is missing, damaged or foreign."""
    manifest = read_reference_manifest(folder)
    path = Path(folder) / FEATURES
    stored = read_tensors(path, "features", REMEDY, manifest.features_sha256)
    try:
        parts = {p: Features.from_tensors(each) for p, each in grouped(stored.tensors()).items()}
        return Reference(parts["train"], parts.get("test"), parts["noise"]), manifest
    except KeyError as error:
        raise UserError(f"{path}: has no {error}; {REMEDY}") from None


def check_reference(
    metric: MetricSettings,
    folder: str | Path,
    reference: ReferenceManifest,
    extractor: Extractor,
    model: ModelManifest,
) -> None:
    """Raise UserError if the reference is of another extractor or dataset than the model's."""
    made_by = reference.extractor.identity()
    made = made_by, reference.truncated_reference, reference.extractor_digest
    if made != (metric.extractor.identity(), metric.truncated_reference, extractor.digest):
        raise UserError(f"{folder}: made with another extractor than {metric.name} has; {REMEDY}")
    dataset, digest = model.settings.dataset.name, model.dataset_digest
    # Of an imported model, only the name of its dataset is certain.
    if digest is None and dataset != reference.dataset:
        raise UserError(f"{folder}: of dataset {reference.dataset}, but the model is of {dataset}")
    if digest is not None and reference.dataset_digest != digest:
        raise UserError(
            f"{folder}: of dataset {reference.dataset} with digest "
            f"{reference.dataset_digest[:12]}, but the model was trained on {digest[:12]}"
        )
