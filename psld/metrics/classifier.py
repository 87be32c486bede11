"""A classifier that is trained on the dataset itself, whose features are the extractor.

A folder has `weights.safetensors` and, written last, `manifest.json`.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad, silu

from psld.config.settings import MadeRecord, Settings, read_record, write_record
from psld.data.store import ImageStore, from_uint8
from psld.metrics.features import batches_of, digest_of_weights
from psld.metrics.settings import ClassifierSettings, TrainExtractorSettings
from psld.networks.forward import enough_threads
from psld.utils.device import device_name, provenance, use_device
from psld.utils.errors import RunError, UserError
from psld.utils.progress import Progress
from psld.utils.randomness import Stream, generator, stream_seed
from psld.utils.tensors import read_tensors, save_tensors

WEIGHTS = "weights.safetensors"
MANIFEST = "manifest.json"
REMEDY = "run psld train_extractor again"

COARSEST = 4  # images are halved until both sides are at most this long


class ImageShape(Settings):
    """The images and labels of a classifier."""

    channels: int
    image_size: int
    num_classes: int


class FeatureClassifier(nn.Module):
    """A network of convolutions that halve the image down to 4×4, d features, and a linear head.

    The features are taken *before* the last nonlinearity, because there they are nearest to the
    Gaussian that a Fréchet distance assumes. They are standardized: over the training split each
    has mean 0 and variance 1, so the trace of their covariance is d and distances have a scale.
    """

    def __init__(self, settings: ClassifierSettings, shape: ImageShape) -> None:
        super().__init__()
        architecture = {"width": settings.width, "features": settings.features}
        self.architecture = json.dumps(architecture | shape.model_dump(), sort_keys=True)
        self.image = (shape.channels, shape.image_size, shape.image_size)
        self.body = nn.Sequential(*_body(settings, shape))
        self.standardise = nn.BatchNorm1d(settings.features, affine=False)
        self.head = nn.Linear(settings.features, shape.num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Map x in [−1, 1], N×C×H×W → features N×d."""
        return self.standardise(self.body(x))

    def classify(self, features: Tensor) -> Tensor:
        """Map features N×d → logits N×classes."""
        return self.head(silu(features))

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x))


def _body(settings: ClassifierSettings, shape: ImageShape) -> Iterator[nn.Module]:
    channels, side = settings.width, shape.image_size
    yield from _convolution(shape.channels, channels)
    while side > COARSEST:
        wider = min(2 * channels, 4 * settings.width)
        yield from _convolution(channels, wider, stride=2)
        yield from _convolution(wider, wider)
        channels, side = wider, (side + 1) // 2
    yield nn.Flatten()
    yield nn.Linear(channels * side**2, settings.features)


def _convolution(inputs: int, outputs: int, stride: int = 1) -> Iterator[nn.Module]:
    yield nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
    yield nn.BatchNorm2d(outputs)
    yield nn.SiLU()


class ClassifierExtractor:
    """A trained classifier as an extractor of its features."""

    def __init__(self, network: FeatureClassifier, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.network = network.to(self.device).eval().requires_grad_(False)
        weights = network.state_dict() if self.device.type != "meta" else {}  # No values there.
        self.digest = digest_of_weights(network.architecture, weights)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map uint8 N×C×H×W → features N×d and logits N×classes."""
        if images.dtype != torch.uint8 or images.shape[1:] != self.network.image:
            raise UserError(
                f"the feature classifier takes uint8 images of {self.network.image}, "
                f"not {images.dtype} of {tuple(images.shape[1:])}"
            )
        features = self.network.features(from_uint8(images.to(self.device)))
        return features, self.network.classify(features)


# -- training -----------------------------------------------------------------------------------


def make_extractor(settings: TrainExtractorSettings) -> "ExtractorManifest":
    """Train the classifier of a dataset and write its folder. Raises UserError without labels."""
    store, name = ImageStore.open_for(settings.data, settings.dataset), settings.dataset.name
    if store.num_classes < 2:
        wrong = f"dataset {name} has no labels to train a classifier with"
        raise UserError(f"{settings.data}: {wrong}; use metric=fid")
    shape = ImageShape(
        channels=store.channels, image_size=store.image_size, num_classes=store.num_classes
    )
    chosen = cast(ClassifierSettings, settings.metric.extractor)
    device = use_device(settings.device)
    where = f"{settings.output} for {chosen.steps} steps on {device_name(device)}"
    print(f"training {where}", flush=True)
    splits = store.splits.items()
    data = {split: (store.images(split), store.labels(split)) for split, n in splits if n}
    started = time.monotonic()
    extractor = train_classifier(chosen, shape, *data["train"], device)
    seconds = time.monotonic() - started
    size = settings.metric.batch_size
    accuracies = {f"{split}_accuracy": accuracy(extractor, *data[split], size) for split in data}
    network = extractor.network
    tensors, origin = network.state_dict(), {"architecture": network.architecture}
    manifest = ExtractorManifest(
        extractor=chosen,
        shape=shape,
        dataset=name,
        dataset_digest=store.digest,
        digest=save_tensors(Path(settings.output) / WEIGHTS, "weights", tensors, origin),
        **{"test_accuracy": None} | accuracies,
        seconds=round(seconds, 3),
        device=device_name(device),
        **provenance("metrics"),
    )
    write_record(Path(settings.output) / MANIFEST, manifest)  # it completes the folder
    return manifest


def train_classifier(
    settings: ClassifierSettings,
    shape: ImageShape,
    images: np.ndarray,
    labels: np.ndarray,
    device: torch.device | str = "cpu",
) -> ClassifierExtractor:
    """Train on uint8 `images` N×C×H×W and integer `labels` N; the seed determines the result.

    All images are moved to the device at once. Raises RunError if the training diverges.
    """
    all_images = torch.from_numpy(np.array(images)).to(device)
    all_labels = torch.from_numpy(np.array(labels, dtype=np.int64)).to(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(settings.seed, Stream.INITIAL_WEIGHTS))
        network = FeatureClassifier(settings, shape).to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=settings.steps
    )
    random = generator("cpu", settings.seed, Stream.BATCH)
    # A small network has one thread here as in the workflow's jobs, so the same bits by hand.
    threads = enough_threads(network, settings.batch_size, images[0].size)
    progress = Progress("classifier", "step", settings.steps)
    loss = torch.zeros(())
    with deterministic(), threads:
        for _ in range(settings.steps):
            index = torch.randint(len(all_images), (settings.batch_size,), generator=random)
            index = index.to(device, non_blocking=True)
            x = shifted(from_uint8(all_images[index]), settings.shift, random)
            loss = cross_entropy(network(x), all_labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            progress.update()
    progress.close()
    if not loss.isfinite():  # checked only once: a check at every step would make the device wait
        raise RunError("the feature classifier diverged: lower metric.extractor.learning_rate")
    return ClassifierExtractor(network, device)


@contextmanager
def deterministic() -> Iterator[None]:
    """Let cuDNN use only algorithms that give the same bits each time."""
    cudnn = torch.backends.cudnn  # its own context manager `flags` also changes the use of TF32
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


def shifted(x: Tensor, most: int, random: torch.Generator) -> Tensor:
    """Shift each image by up to `most` pixels each way; new pixels repeat the border."""
    n, _, height, width = x.shape
    shift = torch.randint(2 * most + 1, (2, n, 1), generator=random)
    top, left = shift.to(x.device, non_blocking=True)
    padded = pad(x, (most, most, most, most), mode="replicate")
    rows = top + torch.arange(height, device=x.device)
    columns = left + torch.arange(width, device=x.device)
    image = torch.arange(n, device=x.device)[:, None, None]
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def accuracy(
    extractor: ClassifierExtractor, images: np.ndarray, labels: np.ndarray, batch_size: int
) -> float:
    """Return the fraction of uint8 `images` that are classified as their label."""
    answers = [extractor(batch)[1].argmax(dim=1) for batch in batches_of(images, batch_size)]
    right = torch.cat(answers).cpu() == torch.from_numpy(np.array(labels, dtype=np.int64))
    return right.double().mean().item()


# -- the folder ---------------------------------------------------------------------------------


class ExtractorManifest(MadeRecord):
    """The record of a trained classifier: its settings, its data and its accuracy."""

    extractor: ClassifierSettings
    shape: ImageShape
    dataset: str
    dataset_digest: str
    digest: str
    """The SHA-256 of architecture and weights: the extractor's, and that of its file."""
    train_accuracy: float = Field(ge=0, le=1)
    """Accuracy on the training split, without augmentation."""
    test_accuracy: float | None = Field(ge=0, le=1)
    """Null without a test split."""
    seconds: float
    device: str


def read_extractor_manifest(folder: str | Path) -> ExtractorManifest:
    """Read a folder's manifest. Raises UserError if it is missing, damaged or foreign."""
    path = Path(folder) / MANIFEST
    wrong = f"{path}: not the manifest of an extractor; {REMEDY}"
    return read_record(ExtractorManifest, path, wrong)


def load_classifier(folder: str | Path, device: torch.device | str = "cpu") -> ClassifierExtractor:
    """Load the trained classifier of a folder. Raises UserError if it is missing or damaged."""
    manifest = read_extractor_manifest(folder)
    network = FeatureClassifier(manifest.extractor, manifest.shape)
    stored = read_tensors(Path(folder) / WEIGHTS, "weights", REMEDY, manifest.digest)
    network.load_state_dict(stored.tensors())
    return ClassifierExtractor(network, device)
