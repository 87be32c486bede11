"""The reference of metrics: the features of a dataset's images, and of noise for the scale.

A folder has `features.safetensors`, of train, test (if there is one) and noise, and, written last,
`manifest.json`. All metrics with the same extractor share it.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from psld.config.parts import check_known
from psld.config.settings import MadeRecord, read_record, write_record
from psld.data.store import ImageStore, to_uint8, truncated
from psld.evaluation.extractor_folder import load_trained, read_extractor_manifest
from psld.evaluation.settings import ReferenceSettings
from psld.metrics.extraction import FeatureExtractor, batches_of, gather, load_extractor
from psld.metrics.features import Device, Features, Reference
from psld.metrics.settings import Extractor, MetricSettings
from psld.training.manifest import ModelManifest
from psld.utils.code import MEASURE
from psld.utils.device import device_name, provenance, use_device
from psld.utils.errors import UserError
from psld.utils.tensors import grouped, load_tensors, save_tensors

FEATURES = "features.safetensors"
MANIFEST = "manifest.json"
REMEDY = "run psld reference again"

NOISE_SAMPLES = 10_000
"""Images of noise; as many as training images if there are fewer."""


class ReferenceManifest(MadeRecord):
    """The record of a reference: its extractor and its data."""

    extractor: Extractor
    truncated_reference: bool
    """True if the real images were truncated as samples are."""
    dataset: str
    dataset_digest: str
    images: dict[str, int]
    """Number of images of each part: train, test if the dataset has it, noise."""
    features_sha256: str
    extractor_digest: str
    extractor_test_accuracy: float | None
    """Of a classifier; null for other extractors and without a test split."""
    device: str

    @property
    def kind(self) -> tuple[str, dict[str, Any], bool]:
        """The dataset, and the settings that decide the features."""
        return self.dataset, self.extractor.identity(), self.truncated_reference

    def facts(self, split: str) -> dict[str, Any]:
        """Return the fields of a result about its reference."""
        return {
            "extractor_test_accuracy": self.extractor_test_accuracy,
            "reference_samples": self.images.get(split, 0),
            "floor_samples": self.images.get("train" if split == "test" else "test"),
            "reference_sha256": self.features_sha256,
        }


def make_reference(settings: ReferenceSettings) -> ReferenceManifest:
    """Extract the features of a dataset's images, and of noise, and write them with a manifest."""
    metric, folder = settings.metric, settings.extractor
    check_known(settings.metric)
    store = ImageStore.open_for(settings.data, settings.dataset)
    if store.splits[(split := metric.reference_split)] == 0:
        raise UserError(f"{settings.data}: no {split} images; set metric.reference_split")
    extractor = extractor_for(metric, folder, store.digest, use_device(settings.device))
    parts = features_of_splits(extractor, store, metric)
    parts["train"] = Features(parts["train"].values)  # no metric needs its logits
    count = min(store.splits["train"], NOISE_SAMPLES)
    noise = noise_images(count, store.shape, metric.batch_size)
    parts["noise"] = gather(extractor, noise, "noise", count)
    origin = {"extractor": extractor.digest, "dataset": store.digest}
    manifest = ReferenceManifest(
        extractor=metric.extractor,
        truncated_reference=metric.truncated_reference,
        dataset=settings.dataset.name,
        dataset_digest=store.digest,
        images={name: len(features) for name, features in parts.items()},
        features_sha256=save_features(settings.output, parts, origin),
        extractor_digest=extractor.digest,
        extractor_test_accuracy=read_extractor_manifest(folder).test_accuracy if folder else None,
        device=device_name(extractor.device),
        **provenance(*MEASURE),
    )
    write_record(Path(settings.output) / MANIFEST, manifest)  # it completes the folder
    return manifest


def extractor_for(
    metric: MetricSettings,
    folder: str | Path | FeatureExtractor | None,
    dataset_digest: str,
    device: Device = "cpu",
) -> FeatureExtractor:
    """Load the extractor of a metric: the trained one in `folder`, or another; a loaded one is it.

    Raises UserError if the folder is missing, damaged, or not of these settings and of the data
    with this digest, and if published weights cannot be loaded.
    """
    settings = metric.extractor
    if isinstance(folder, FeatureExtractor):
        return folder
    if not settings.trains:
        if folder is None:
            return load_extractor(settings, device)
        raise UserError(f"extractor={folder}: metric {metric.name} needs none; set extractor=null")
    if folder is None:
        raise UserError(
            f"extractor: metric {metric.name} needs the folder of a trained extractor, "
            "made by psld train_extractor"
        )
    trained = read_extractor_manifest(folder)
    if trained.extractor != settings:
        raise UserError(
            f"{folder}: trained with metric.extractor={trained.extractor!r}, but the metric "
            f"asks for {settings!r}; train it again"
        )
    if trained.dataset_digest != dataset_digest:
        raise UserError(f"{folder}: trained on other data of {trained.dataset}; train it again")
    return load_trained(folder, device)


def features_of_splits(
    extractor: FeatureExtractor, store: ImageStore, metric: MetricSettings
) -> dict[str, Features]:
    """Extract the features of each split that the dataset has."""
    return {
        split: gather(extractor, real_batches(store.images(split), metric), split, size)
        for split, size in store.splits.items()
        if size
    }


def real_batches(images: np.ndarray, metric: MetricSettings) -> Iterator[Tensor]:
    """Cut uint8 images of a reference into batches, truncated as samples are if it is asked for."""
    batches = batches_of(images, metric.batch_size)
    return map(truncated, batches) if metric.truncated_reference else batches


def noise_images(count: int, shape: tuple[int, ...], batch_size: int) -> Iterator[Tensor]:
    """Yield batches of pure noise as images, the same images for any batch size."""
    random = np.random.default_rng(0)
    for start in range(0, count, batch_size):
        size = min(batch_size, count - start)
        yield to_uint8(torch.from_numpy(random.standard_normal((size, *shape), dtype=np.float32)))


def save_features(folder: str | Path, parts: dict[str, Features], origin: dict[str, str]) -> str:
    """Write the features of all parts, with the digests of what made them; return the SHA-256."""
    tensors = {}
    for part, features in parts.items():
        tensors |= {f"{part}.{name}": tensor for name, tensor in features.tensors().items()}
    return save_tensors(Path(folder) / FEATURES, "features", tensors, origin)


def read_reference_manifest(folder: str | Path) -> ReferenceManifest:
    """Read a folder's manifest. Raises UserError if it is missing, damaged or foreign."""
    path = Path(folder) / MANIFEST
    wrong = f"{path}: not the manifest of a reference; {REMEDY}"
    return read_record(ReferenceManifest, path, wrong)


def load_reference(folder: str | Path) -> tuple[Reference, ReferenceManifest]:
    """Read a reference. Raises UserError if a file is missing, damaged or foreign."""
    manifest, path = read_reference_manifest(folder), Path(folder) / FEATURES
    stored = load_tensors(path, "features", REMEDY, manifest.features_sha256)
    parts = {part: Features(**each) for part, each in grouped(stored.tensors()).items()}
    return Reference(parts["train"], parts.get("test"), parts.get("noise")), manifest


def check_reference(
    metric: MetricSettings,
    folder: str | Path,
    reference: ReferenceManifest,
    extractor_digest: str,
    model: ModelManifest | None,
) -> None:
    """Raise UserError if the reference is of another extractor, or dataset than the model's."""
    source = *reference.kind[1:], reference.extractor_digest
    if source != (metric.extractor.identity(), metric.truncated_reference, extractor_digest):
        raise UserError(f"{folder}: made with another extractor than {metric.name} has; {REMEDY}")
    if model is None:
        return
    # Of an imported model, only the name of its dataset is certain.
    dataset, digest = model.settings.dataset.name, model.dataset_digest
    if dataset != reference.dataset or digest not in (None, reference.dataset_digest):
        raise UserError(f"{folder}: of dataset {reference.dataset}, but the model is of another")


def prepared_shape(folder: str | Path, dataset: str | None = None) -> tuple[int, ...] | None:
    """Return C×H×W of a reference's images, if they are in data/. Raises UserError for others."""
    manifest = read_reference_manifest(folder)
    data = Path(f"data/{dataset or manifest.dataset}.h5")
    store = ImageStore.open(data) if data.exists() else None
    if dataset and store and store.digest != manifest.dataset_digest:
        raise UserError(f"{folder}: of other images than {data}; {REMEDY}")
    return store and store.shape


class Basis(NamedTuple):
    """What images are compared with, in the features of one extractor."""

    reference: Reference | None
    """None if its features are missing."""
    facts: Callable[[str], dict[str, Any]]
    """The fields of a result about the reference, by split."""
    extractor: FeatureExtractor | None = None
    """None if the features of the images are known."""
    shape: tuple[int, ...] | None = None
    """C×H×W of the reference's images, if they are known."""


def folder_basis(
    metric: MetricSettings,
    folder: str | Path,
    extractor: str | Path | FeatureExtractor | None,
    device: torch.device,
    model: ModelManifest | None = None,
) -> Basis:
    """Load a reference and its extractor, for a model's images or any."""
    reference, manifest = load_reference(folder)
    network = extractor_for(metric, extractor, manifest.dataset_digest, device)
    check_reference(metric, folder, manifest, network.digest, model)
    return Basis(reference, manifest.facts, network)
