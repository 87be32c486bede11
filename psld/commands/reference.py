"""Compute the reference of a dataset: the features of its images, and of noise for the scale.

    psld reference dataset=digits metric=fd-classifier
    psld reference dataset=cifar10 metric=fid extractor=null

Metrics with the same `features` share a reference. Writes OUTPUT/features.safetensors and, last,
OUTPUT/manifest.json.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from psld.commands.entry import FromRecord, entry_point
from psld.config.settings import write_record
from psld.data.pixels import to_uint8, truncated
from psld.data.store import ImageStore
from psld.grid import jobs
from psld.metrics.extractor import Extractor, batches_of, gather
from psld.metrics.extractor_folder import load_extractor, read_manifest
from psld.metrics.features import Features
from psld.metrics.reference_folder import MANIFEST, ReferenceManifest, save_features
from psld.metrics.settings import MetricSettings, ReferenceSettings
from psld.utils.device import use_device
from psld.utils.errors import UserError
from psld.utils.provenance import device_name, provenance

NOISE_SAMPLES = 10_000
"""Images of noise; as many as training images if there are fewer."""


RECORDS = {"features": FromRecord(jobs.reference, {"data", "extractor", "output", "device"})}


@entry_point("reference", ReferenceSettings, records=RECORDS)
def main(settings: ReferenceSettings) -> None:
    metric, folder = settings.metric, settings.extractor
    store = ImageStore.open_for(settings.data, settings.dataset)
    wanted = metric.reference_split
    if wanted != "all" and store.splits[wanted] == 0:
        raise UserError(f"{settings.data}: no {wanted} images; set metric.reference_split")
    extractor = load_extractor(metric, folder, store.digest, use_device(settings.device))
    parts = features_of_splits(extractor, store, metric)
    parts["train"] = Features(parts["train"].values)  # no metric needs its logits
    shape = (store.channels, store.image_size, store.image_size)
    count = min(store.splits["train"], NOISE_SAMPLES)
    noise = noise_images(count, shape, metric.batch_size)
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
        extractor_test_accuracy=read_manifest(folder).test_accuracy if folder else None,
        device=device_name(extractor.device),
        **provenance(),
    )
    write_record(Path(settings.output) / MANIFEST, manifest)  # it completes the folder
    images = ", ".join(f"{count} of {name}" for name, count in manifest.images.items())
    print(f"wrote {settings.output}: {extractor.dimension} features of images: {images}")


def features_of_splits(
    extractor: Extractor, store: ImageStore, metric: MetricSettings
) -> dict[str, Features]:
    """Extract the features of each split that the dataset has."""
    features = {}
    for split, size in store.splits.items():
        if size > 0:
            batches = batches_of(store.images(split), metric.batch_size)
            if metric.truncated_reference:
                batches = map(truncated, batches)
            features[split] = gather(extractor, batches, split, size)
    return features


def noise_images(count: int, shape: tuple[int, int, int], batch_size: int) -> Iterator[Tensor]:
    """Yield batches of pure noise as images, the same images for any batch size."""
    random = np.random.default_rng(0)
    for start in range(0, count, batch_size):
        size = min(batch_size, count - start)
        yield to_uint8(torch.from_numpy(random.standard_normal((size, *shape), dtype=np.float32)))
