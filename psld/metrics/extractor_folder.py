"""A trained feature classifier on disk: `weights.safetensors` and, last, `manifest.json`."""

from pathlib import Path

import torch
from pydantic import Field

from psld.config.settings import MadeRecord, read_record
from psld.metrics.extractor import Extractor
from psld.metrics.feature_classifier import ClassifierExtractor, FeatureClassifier, ImageShape
from psld.metrics.settings import (
    ClassifierSettings,
    DINOv2Settings,
    EfficientNetSettings,
    InceptionSettings,
    MetricSettings,
)
from psld.utils.errors import UserError
from psld.utils.files import retried_in_slurm
from psld.utils.tensors import read_tensors, save_tensors

WEIGHTS = "weights.safetensors"
MANIFEST = "manifest.json"


class ExtractorManifest(MadeRecord):
    """The record of a trained classifier: its settings, its data and its accuracy."""

    extractor: ClassifierSettings
    """The settings it was trained with."""
    shape: ImageShape
    """The shape of its images."""
    dataset: str
    """Name of the dataset."""
    dataset_digest: str
    """Digest of the dataset's pixels and labels."""
    digest: str
    """The SHA-256 of architecture and weights: the extractor's, and that of its file."""
    train_accuracy: float = Field(ge=0, le=1)
    """Accuracy on the training split, without augmentation."""
    test_accuracy: float | None = Field(ge=0, le=1)
    """Accuracy on the test split; null without a test split."""
    seconds: float
    """Wall-clock time of the training."""
    device: str
    """The device of the training."""


def save_weights(folder: str | Path, extractor: ClassifierExtractor) -> str:
    """Write the weights and return the extractor's digest."""
    tensors, origin = extractor.network.state_dict(), {"architecture": extractor.architecture}
    return save_tensors(Path(folder) / WEIGHTS, "weights", tensors, origin)


@retried_in_slurm
def read_manifest(folder: str | Path) -> ExtractorManifest:
    """Read a folder's manifest. Raises UserError if it is missing, damaged or foreign."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; a trained extractor is made by psld train_extractor"
        )
    wrong = f"{path}: not the manifest of an extractor; train it again"
    return read_record(ExtractorManifest, path, wrong)


def load_extractor(
    metric: MetricSettings,
    folder: str | Path | None,
    dataset_digest: str,
    device: torch.device | str = "cpu",
) -> Extractor:
    """Load the extractor of a metric.

    `folder` has the trained classifier of a classifier metric; published networks need none.
    `dataset_digest` is that of the current data, on which a classifier must have been trained.

    Raises UserError if the folder is missing, damaged, or for other settings or another dataset,
    and if published weights cannot be loaded.
    """
    settings = metric.extractor
    if isinstance(settings, ClassifierSettings):
        if folder is None:
            raise UserError(
                f"extractor: metric {metric.name} needs the folder of a trained extractor, "
                "made by psld train_extractor"
            )
        return _load_classifier(settings, Path(folder), dataset_digest, device)
    if folder is not None:
        raise UserError(f"extractor={folder}: metric {metric.name} needs none; set extractor=null")
    # Importing torch-fidelity takes seconds, and classifiers do not need it.
    match settings:
        case InceptionSettings():
            from psld.metrics.inception import InceptionExtractor

            return InceptionExtractor(settings.weights, device)
        case DINOv2Settings():
            from psld.metrics.dinov2 import DINOv2Extractor

            return DINOv2Extractor(settings, device)
        case EfficientNetSettings():
            from psld.metrics.efficientnet import EfficientNetExtractor

            return EfficientNetExtractor(device)


def _load_classifier(
    settings: ClassifierSettings, folder: Path, dataset_digest: str, device: torch.device | str
) -> ClassifierExtractor:
    manifest = read_manifest(folder)
    made, wanted = manifest.extractor.model_dump(), settings.model_dump()
    for key in wanted:
        if made[key] != wanted[key]:
            raise UserError(
                f"{folder / MANIFEST}: trained with metric.extractor.{key}={made[key]}, but the "
                f"metric asks for {wanted[key]}; train it again"
            )
    if manifest.dataset_digest != dataset_digest:
        raise UserError(
            f"{folder / MANIFEST}: trained on dataset {manifest.dataset} with digest "
            f"{manifest.dataset_digest}, but the data at hand has {dataset_digest}; train it again"
        )
    return open_extractor(folder, device)


def open_extractor(folder: str | Path, device: torch.device | str = "cpu") -> ClassifierExtractor:
    """Load the trained classifier of a folder, for any dataset.

    Raises UserError if the folder is missing or damaged.
    """
    manifest, path = read_manifest(folder), Path(folder) / WEIGHTS
    network = FeatureClassifier(manifest.extractor, manifest.shape)
    remedy = "train the extractor again"
    weights = read_tensors(path, "weights", remedy, manifest.digest)
    try:
        network.load_state_dict(weights.tensors())
    except RuntimeError:  # names or shapes differ: the code has changed
        raise UserError(f"{path}: of another version; train it again") from None
    return ClassifierExtractor(network, manifest.extractor, manifest.shape, device)
