"""The folders in features/: trained extractors, and references of metrics.

The folder of an extractor has `weights.safetensors`. The folder of a reference has
`features.safetensors`: the features of a dataset's training split, of its test split, if any, and
of noise, which defines the scale. All metrics with the same extractor share a reference. In both
folders, `manifest.json` is written last.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from psld.config.parts import imported
from psld.config.settings import MadeRecord, changes, read_record, write_record
from psld.data.pictures import AsPictures, decoder
from psld.data.settings import Autoencoder
from psld.data.store import ImageStore, Split, described_record
from psld.data.units import BYTES, Units, truncated
from psld.evaluation.settings import ReferenceSettings, TrainExtractorSettings, decoder_for
from psld.metrics.classifier import ImageShape, deterministic
from psld.metrics.extraction import FeatureExtractor, batches_of, gather, load_extractor
from psld.metrics.features import Device, Features, Reference
from psld.metrics.settings import Extractor, MetricSettings
from psld.models.manifest import MANIFEST, WEIGHTS, ModelManifest
from psld.utils.device import device_name, float32_by_default, provenance, use_device
from psld.utils.errors import UserError
from psld.utils.files import digest_of
from psld.utils.tensors import grouped, load_tensors, save_tensors

FEATURES = "features.safetensors"
TRAIN_AGAIN = "run psld train_extractor again"
REMEDY = "run psld reference again"
MISSING = "no such file; run {} with the same dataset and metric"

NOISE_SAMPLES = 10_000
"""The largest number of noise images. There are at most as many noise images as training images."""


class Decoded:
    """The pictures of tensors, which are decoded when a range of them is read."""

    def __init__(self, values: np.ndarray, as_pictures: AsPictures) -> None:
        self._values, self._as_pictures = values, as_pictures

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, part: slice) -> np.ndarray:
        return self._as_pictures(self._values[part])


Images = np.ndarray | Decoded


# -- trained extractors ---------------------------------------------------------------------------


def make_extractor(settings: TrainExtractorSettings) -> "ExtractorManifest":
    """Train the extractor of a dataset and write its folder. Raises UserError without labels."""
    store, name = ImageStore.open_for(settings.data, settings.dataset), settings.dataset.name
    part = imported(settings.metric.extractor)
    if not part.trains:
        wrong = f"the extractor of {settings.metric.name} is not trained by psld"
        raise UserError(f"metric: {wrong}; use metric=fd-classifier")
    if part.classifies and store.num_classes < 2:
        wrong = f"dataset {name} has no labels to train a classifier with"
        raise UserError(f"{settings.data}: {wrong}; use metric=fid")
    device = use_device(settings.device)
    print(f"training {settings.output} on {device_name(device)}", flush=True)
    splits = store.splits.items()
    of_split = images_for(settings, store, device)
    data = {split: (of_split(split), store.labels(split)) for split, n in splits if n}
    # All images are moved to the device at once.
    images, labels = (torch.from_numpy(np.array(each[:])).to(device) for each in data["train"])
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
    write_record(Path(settings.output) / MANIFEST, manifest)  # The last file of the folder.
    return manifest


def accuracy(
    extractor: FeatureExtractor, images: Images, labels: np.ndarray, batch_size: int
) -> float:
    """Return the fraction of `images` that are classified as their label."""
    logits = [cast(Tensor, extractor(batch)[1]) for batch in batches_of(images, batch_size)]
    right = torch.cat(logits).argmax(dim=1).cpu().numpy() == labels
    return float(right.mean())


class ExtractorManifest(MadeRecord):
    extractor: Extractor
    shape: ImageShape
    dataset: str
    dataset_digest: str
    digest: str
    """SHA-256 of architecture and weights; the digest of the extractor and of its weights file."""
    train_accuracy: float | None = Field(None, ge=0, le=1)
    """Accuracy of a classifier, without augmentation; null for other extractors."""
    test_accuracy: float | None = Field(None, ge=0, le=1)
    """As `train_accuracy`, on the test split; null without a test split."""
    seconds: float
    device: str


def read_extractor_manifest(folder: str | Path) -> ExtractorManifest:
    """Read the manifest of an extractor. Raises UserError if it is missing or damaged."""
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
    """True if the real images were truncated to bytes in the same way as samples."""
    dataset: str
    dataset_digest: str
    images: dict[str, int]
    """Number of images of each part: train, noise, and test if the dataset has a test split."""
    features_sha256: str
    extractor_digest: str
    extractor_test_accuracy: float | None
    """Accuracy of a classifier on the test split; null for other extractors, or without this split.
    """
    device: str
    decoder: str | None = Field(default=None, exclude_if=lambda digest: digest is None)
    """The digest of the decoder that made the dataset's pictures from tensors, if any."""

    @property
    def kind(self) -> tuple[str, dict[str, Any], bool]:
        """The dataset, and the settings that determine the features."""
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
    of_split = images_for(settings, store, extractor.device)
    parts = features_of_splits(extractor, of_split, store.splits, metric)
    parts["train"] = Features(parts["train"].values)  # No metric needs logits of training images.
    count, decode = min(store.splits["train"], NOISE_SAMPLES), decoder_for(settings.dataset, metric)
    images = of_split("train")[:1]
    units = BYTES if images.dtype == np.uint8 else store.units
    noise = noise_images(count, images.shape[1:], metric.batch_size, units)
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
        decoder=None if settings.dataset.source.encoded else decoder_digest(decode),
        **provenance(),
    )
    write_record(Path(settings.output) / MANIFEST, manifest)  # The last file of the folder.
    return manifest


def decoder_digest(decode: Autoencoder | None) -> str | None:
    return decode and digest_of(decode.identity())


def extractor_for(
    metric: MetricSettings,
    folder: str | Path | FeatureExtractor | None,
    dataset_digest: str | None = None,
    device: Device = "cpu",
) -> FeatureExtractor:
    """Load the extractor of a metric.

    Args:
        folder: the folder of a trained extractor; None for a published extractor. An extractor that
            is already loaded is returned unchanged.
        dataset_digest: the digest of the data on which the extractor must have been trained; None
            accepts any data.

    Raises UserError if the folder is missing or damaged, if its settings or its data differ, or if
    published weights cannot be loaded.
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
        raise UserError(f"extractor: {needs}; run psld train_extractor")
    trained = read_extractor_manifest(folder)
    if told := "; ".join(changes(trained.extractor, settings)):
        raise UserError(f"{folder}: metric.extractor: {told}; delete it, or {TRAIN_AGAIN}")
    if dataset_digest not in (None, trained.dataset_digest):
        raise UserError(f"{folder}: trained on other data of {trained.dataset}; {TRAIN_AGAIN}")
    return load_trained(folder, device)


def features_of_splits(
    extractor: FeatureExtractor,
    of_split: Callable[[Split], "Images"],
    splits: Mapping[Split, int],
    metric: MetricSettings,
) -> dict[str, Features]:
    """Extract the features of each split that the dataset has."""
    return {
        split: gather(extractor, real_batches(of_split(split), metric), split, size)
        for split, size in splits.items()
        if size
    }


def images_for(
    settings: ReferenceSettings | TrainExtractorSettings, store: ImageStore, device: torch.device
) -> Callable[[Split], Images]:
    """Return the function that maps a split to its images, as the metric sees them.

    For tensors and a metric of pictures, the images are the pictures from which the tensors were
    encoded, or decoded tensors if the tensors were not encoded by `psld prepare`.

    Raises UserError without a decoder, or if the pictures have changed since they were encoded.
    """
    dataset = settings.dataset
    decode = decoder_for(dataset, settings.metric)
    if decode is None:
        return store.images
    if dataset.source.encoded:
        pictures = ImageStore.open(f"data/{dataset.source.encoded}.h5")
        record = store.path.with_suffix(".json")
        if described_record(store.path).seen != pictures.digest:
            wrong = f"{pictures.path}: has changed since it was encoded"
            raise UserError(f"{wrong}, according to {record}; prepare {dataset.name} again")
        return pictures.images
    as_pictures = decoder(decode, device, store.path.parent)
    return lambda split: Decoded(store.images(split), as_pictures)


def real_batches(images: Images, metric: MetricSettings) -> Iterator[Tensor]:
    """Yield a reference's images in batches, truncated if `truncated_reference` is set."""
    batches = batches_of(images, metric.batch_size)
    return map(truncated, batches) if metric.truncated_reference else batches


def noise_images(
    count: int, shape: tuple[int, ...], batch_size: int, units: Units = BYTES
) -> Iterator[Tensor]:
    """Yield batches of images of pure noise; the images do not depend on the batch size."""
    random = np.random.default_rng(0)
    for start in range(0, count, batch_size):
        size = min(batch_size, count - start)
        noise = random.standard_normal((size, *shape), dtype=np.float32)
        yield units.stored(torch.from_numpy(noise))


def save_features(folder: str | Path, parts: dict[str, Features], origin: dict[str, str]) -> str:
    """Write the features of all parts, with the digests in `origin`, and return the SHA-256."""
    tensors = {}
    for part, features in parts.items():
        tensors |= {f"{part}.{name}": tensor for name, tensor in features.tensors().items()}
    return save_tensors(Path(folder) / FEATURES, "features", tensors, origin)


def read_reference_manifest(folder: str | Path) -> ReferenceManifest:
    """Read the manifest of a reference. Raises UserError if it is missing or damaged."""
    path = Path(folder) / MANIFEST
    wrong = f"{path}: not the manifest of a reference; {REMEDY}"
    return read_record(ReferenceManifest, path, wrong, MISSING.format("psld reference"))


def load_reference(folder: str | Path) -> tuple[Reference, ReferenceManifest]:
    """Read a reference. Raises UserError if a file is missing, damaged or not of a reference."""
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
    """Raise UserError if the reference and the metric have different extractors, or the reference
    and the model have different datasets."""
    source = *reference.kind[1:], reference.extractor_digest
    if source != (metric.extractor.identity(), metric.truncated_reference, extractor_digest):
        raise UserError(f"{folder}: made with another extractor than {metric.name}; {REMEDY}")
    if model is None:
        return
    # Compare the names, too, because an imported model may have no digest of its dataset.
    dataset, digest = model.settings.dataset.name, model.dataset_digest
    if dataset != reference.dataset or digest not in (None, reference.dataset_digest):
        raise UserError(
            f"{folder}: made from dataset {reference.dataset}, but the model was trained on other "
            f"data ({dataset}); {REMEDY}"
        )


def prepared_shape(folder: str | Path, dataset: str | None = None) -> tuple[int, ...] | None:
    """Return C×H×W of a reference's images; None if the dataset is not in data/.

    Raises UserError if `dataset` has other images than the reference.
    """
    manifest = read_reference_manifest(folder)
    data = Path(f"data/{dataset or manifest.dataset}.h5")
    store = ImageStore.open(data) if data.exists() else None
    if dataset and store and store.digest != manifest.dataset_digest:
        raise UserError(f"{folder}: made from other images than {data}; {REMEDY}")
    return store and store.shape


class Basis(NamedTuple):
    """A reference, with the extractor of its features."""

    reference: Reference
    facts: Callable[[str], dict[str, Any]]
    """Maps a split to the fields of a result about the reference."""
    extractor: FeatureExtractor | None
    """None when the extractor is no longer needed."""
    shape: tuple[int, ...] | None = None
    """C×H×W of the reference's images; None if unknown."""


def folder_basis(
    metric: MetricSettings,
    folder: str | Path,
    extractor: str | Path | FeatureExtractor | None,
    device: torch.device,
    model: ModelManifest | None = None,
    decode: Autoencoder | None = None,
) -> Basis:
    """Load a reference and its extractor.

    Args:
        model: check that the reference has the dataset of this model; None: no check.
        decode: the decoder of samples that are tensors.

    Raises UserError if the reference was decoded with other weights or code.
    """
    reference, manifest = load_reference(folder)
    if manifest.decoder not in (None, decoder_digest(decode)):
        raise UserError(f"{folder}: made with another dataset.decode; {REMEDY}")
    network = extractor_for(metric, extractor, manifest.dataset_digest, device)
    check_reference(metric, folder, manifest, network.digest, model)
    return Basis(reference, manifest.facts, network)
