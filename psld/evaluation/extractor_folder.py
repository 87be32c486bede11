"""A trained extractor: its training, and its folder.

A folder has `weights.safetensors` and, written last, `manifest.json`.
"""

import time
from pathlib import Path
from typing import cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from psld.config.parts import check_known, naming
from psld.config.settings import MadeRecord, read_record, write_record
from psld.data.store import ImageStore
from psld.evaluation.settings import TrainExtractorSettings
from psld.metrics.classifier import ImageShape, deterministic
from psld.metrics.extraction import KEY, FeatureExtractor, batches_of
from psld.metrics.features import Device
from psld.metrics.settings import Extractor
from psld.utils.code import MEASURE
from psld.utils.device import device_name, provenance, use_device
from psld.utils.errors import UserError
from psld.utils.tensors import load_tensors, save_tensors

WEIGHTS = "weights.safetensors"
MANIFEST = "manifest.json"
REMEDY = "run psld train_extractor again"


def make_extractor(settings: TrainExtractorSettings) -> "ExtractorManifest":
    """Train the extractor of a dataset and write its folder. Raises UserError without labels."""
    store, name = ImageStore.open_for(settings.data, settings.dataset), settings.dataset.name
    part = settings.metric.extractor
    check_known(settings.metric)
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
    with torch.random.fork_rng(devices=[]), deterministic(), naming(KEY, part, "train"):
        torch.manual_seed(0)
        extractor = FeatureExtractor(part, part.train(images, labels, device), device)
    seconds = time.monotonic() - started
    size = settings.metric.batch_size
    accuracies = dict.fromkeys(("train_accuracy", "test_accuracy"))
    if part.classifies:
        accuracies |= {f"{each}_accuracy": accuracy(extractor, *data[each], size) for each in data}
    tensors, origin = extractor.network.state_dict(), {"architecture": extractor.architecture}
    manifest = ExtractorManifest(
        extractor=part,
        shape=ImageShape.of(images, labels),
        dataset=name,
        dataset_digest=store.digest,
        digest=save_tensors(Path(settings.output) / WEIGHTS, "weights", tensors, origin),
        **accuracies,
        seconds=round(seconds, 3),
        device=device_name(device),
        **provenance(*MEASURE),
    )
    write_record(Path(settings.output) / MANIFEST, manifest)  # it completes the folder
    return manifest


def accuracy(
    extractor: FeatureExtractor, images: np.ndarray, labels: np.ndarray, batch_size: int
) -> float:
    """Return the fraction of uint8 `images` that are classified as their label."""
    logits = [cast(Tensor, extractor(batch)[1]) for batch in batches_of(images, batch_size)]
    right = torch.cat(logits).argmax(dim=1).cpu() == torch.from_numpy(
        np.array(labels, dtype=np.int64)
    )
    return right.double().mean().item()


class ExtractorManifest(MadeRecord):
    """The record of a trained extractor: its settings, its data and its accuracy."""

    extractor: Extractor
    shape: ImageShape
    dataset: str
    dataset_digest: str
    digest: str
    """The SHA-256 of architecture and weights: the extractor's, and that of its file."""
    train_accuracy: float | None = Field(ge=0, le=1)
    """Of a classifier, without augmentation; null for others."""
    test_accuracy: float | None = Field(ge=0, le=1)
    """Null without a test split."""
    seconds: float
    device: str


def read_extractor_manifest(folder: str | Path) -> ExtractorManifest:
    """Read a folder's manifest. Raises UserError if it is missing, damaged or foreign."""
    path = Path(folder) / MANIFEST
    wrong = f"{path}: not the manifest of an extractor; {REMEDY}"
    return read_record(ExtractorManifest, path, wrong)


def load_trained(folder: str | Path, device: Device = "cpu") -> FeatureExtractor:
    """Load the trained extractor of a folder. Raises UserError if it is missing or damaged."""
    manifest = read_extractor_manifest(folder)
    part = manifest.extractor
    stored = load_tensors(Path(folder) / WEIGHTS, "weights", REMEDY, manifest.digest)
    with naming(KEY, part, "build_trained"):
        network = part.build_trained(manifest.shape, torch.device(device))
        network.load_state_dict(stored.tensors())
        return FeatureExtractor(part, network, device)
