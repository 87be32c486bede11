"""The folders below features/: of a trained extractor, and of the reference of metrics.

An extractor's has `weights.safetensors`. A reference's has `features.safetensors`, those of a
dataset's images, train and test (if there is one), and of noise for the scale; all metrics with the
same extractor share it. Last, both get a `manifest.json`.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from psld.config.parts import imported
from psld.config.settings import MadeRecord, changes, read_record, write_record
from psld.data.store import ImageStore, to_uint8, truncated
from psld.evaluation.settings import ReferenceSettings, TrainExtractorSettings
from psld.metrics.classifier import ImageShape, deterministic
from psld.metrics.extraction import FeatureExtractor, batches_of, gather, load_extractor
from psld.metrics.features import Device, Features, Reference
from psld.metrics.settings import Extractor, MetricSettings
from psld.models.manifest import MANIFEST, WEIGHTS, ModelManifest
from psld.utils.device import device_name, float32_by_default, provenance, use_device
from psld.utils.errors import UserError
from psld.utils.tensors import grouped, load_tensors, save_tensors

FEATURES = "features.safetensors"
TRAIN_AGAIN = "run psld train_extractor again"
REMEDY = "run psld reference again"
MISSING = "no such file; make it with {}, of the same dataset and metric"

NOISE_SAMPLES = 10_000
"""Images of noise; as many as training images if there are fewer."""


# -- trained extractors ---------------------------------------------------------------------------


def make_extractor(settings: TrainExtractorSettings) -> "ExtractorManifest":
    """Train the extractor of a dataset and write its folder. Raises UserError without labels."""
    store, name = ImageStore.open_for(settings.data, settings.dataset), settings.dataset.name
    part = imported(settings.metric.extractor)
    if not part.trains:
        wrong = f"the extractor of {settings.metric.name} is not trained here"
        raise UserError(f"metric: {wrong}; use metric=fd-classifier")
    if part.classifies and store.num_classes < 2:
        wrong = f"dataset {name} has no labels to train a classifier with"
        raise UserError(f"{settings.data}: {wrong}; use metric=fid")
    device = use_device(settings.device)
    print(f"training {settings.output} on {device_name(device)}", flush=True)
    splits = store.splits.items()
    data = {split: (store.images(split), store.labels(split)) for split, n in splits if n}
    # All images are moved to the device at once.
    images, labels = (torch.from_numpy(np.array(each)).to(device) for each in data["train"])
    started = time.monotonic()
    with torch.random.fork_rng(devices=[]), deterministic():
        torch.manual_seed(0)
        extractor = FeatureExtractor(part, part.train(images, labels, device), device)
    seconds = time.monotonic() - started
    size, counted = settings.metric.batch_size, data.items() if part.classifies else ()
    accuracies = {f"{split}_accuracy": accuracy(extractor, *each, size) for split, each in counted}
    tensors, origin = extractor.network.state_dict(), {"architecture": extractor.architecture}
    shape = ImageShape.of(images, labels)
    part.build_trained(shape, device).load_state_dict(tensors)
    manifest = ExtractorManifest(
        extractor=part,
        shape=shape,
        dataset=name,
        dataset_digest=store.digest,
        digest=save_tensors(Path(settings.output) / WEIGHTS, "weights", tensors, origin),
        **accuracies,
        seconds=round(seconds, 3),
        device=device_name(device),
        **provenance(),
    )
    write_record(Path(settings.output) / MANIFEST, manifest)  # it completes the folder
    return manifest


def accuracy(
    extractor: FeatureExtractor, images: np.ndarray, labels: np.ndarray, batch_size: int
) -> float:
    """Return the fraction of uint8 `images` that are classified as their label."""
    logits = [cast(Tensor, extractor(batch)[1]) for batch in batches_of(images, batch_size)]
    right = torch.cat(logits).argmax(dim=1).cpu().numpy() == labels
    return float(right.mean())


class ExtractorManifest(MadeRecord):
    extractor: Extractor
    shape: ImageShape
    dataset: str
    dataset_digest: str
    digest: str
    """The SHA-256 of architecture and weights: the extractor's, and that of its file."""
    train_accuracy: float | None = Field(None, ge=0, le=1)
    """Of a classifier, without augmentation; null for others."""
    test_accuracy: float | None = Field(None, ge=0, le=1)
    """Null without a test split."""
    seconds: float
    device: str


def read_extractor_manifest(folder: str | Path) -> ExtractorManifest:
    """Read a folder's manifest. Raises UserError if it is missing, damaged or foreign."""
    path = Path(folder) / MANIFEST
    wrong = f"{path}: not the manifest of an extractor; {TRAIN_AGAIN}"
    return read_record(ExtractorManifest, path, wrong, MISSING.format("psld train_extractor"))


def load_trained(folder: str | Path, device: Device = "cpu") -> FeatureExtractor:
    """Load the trained extractor of a folder. Raises UserError if it is missing or damaged."""
    manifest = read_extractor_manifest(folder)
    part = imported(manifest.extractor, folder)
    stored = load_tensors(Path(folder) / WEIGHTS, "weights", TRAIN_AGAIN, manifest.digest)
    with float32_by_default():
        network = part.build_trained(manifest.shape, torch.device(device))
    network.load_state_dict(stored.tensors())
    return FeatureExtractor(part, network, device, manifest.test_accuracy)


# -- references -----------------------------------------------------------------------------------


class ReferenceManifest(MadeRecord):
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
    metric, folder = imported(settings.metric), settings.extractor
    store = ImageStore.open_for(settings.data, settings.dataset)
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
        extractor_test_accuracy=extractor.test_accuracy,
        device=device_name(extractor.device),
        **provenance(),
    )
    write_record(Path(settings.output) / MANIFEST, manifest)  # it completes the folder
    return manifest


def extractor_for(
    metric: MetricSettings,
    folder: str | Path | FeatureExtractor | None,
    dataset_digest: str | None = None,
    device: Device = "cpu",
) -> FeatureExtractor:
    """Load the extractor of a metric: the trained one in `folder`, or another; a loaded one is it.

    Raises UserError if the folder is missing, damaged, or not of these settings and of the data
    with this digest (None: of any), and if published weights cannot be loaded.
    """
    settings = metric.extractor
    if isinstance(folder, FeatureExtractor):
        return folder
    if not settings.trains:
        if folder is None:
            return load_extractor(settings, device)
        raise UserError(f"extractor={folder}: metric {metric.name} needs none; set extractor=null")
    if folder is None:
        needs = f"metric {metric.name} needs the folder of a trained extractor"
        raise UserError(f"extractor: {needs}, made by psld train_extractor")
    trained = read_extractor_manifest(folder)
    if told := "; ".join(changes(trained.extractor, settings)):
        raise UserError(f"{folder}: metric.extractor: {told}; delete it, or {TRAIN_AGAIN}")
    if dataset_digest not in (None, trained.dataset_digest):
        raise UserError(f"{folder}: trained on other data of {trained.dataset}; {TRAIN_AGAIN}")
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
    return read_record(ReferenceManifest, path, wrong, MISSING.format("psld reference"))


def load_reference(folder: str | Path) -> tuple[Reference, ReferenceManifest]:
    """Read a reference. Raises UserError if a file is missing, damaged or foreign."""
    manifest, path = read_reference_manifest(folder), Path(folder) / FEATURES
    stored = load_tensors(path, "features", REMEDY, manifest.features_sha256)
    parts = {part: Features(**each) for part, each in grouped(stored.tensors()).items()}
    train, test, noise = map(parts.get, ("train", "test", "noise"))
    return Reference(cast(Features, train), test, noise, cache={}), manifest


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

    reference: Reference
    facts: Callable[[str], dict[str, Any]]
    """The fields of a result about the reference, by split."""
    extractor: FeatureExtractor | None
    """None after its use."""
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
