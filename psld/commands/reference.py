"""Compute the reference that samples are compared with, and the scale of a metric.

    psld reference dataset=digits metric=fd-classifier
    psld reference dataset=cifar10 metric=fid extractor=null

Writes OUTPUT/statistics.safetensors and, last, OUTPUT/manifest.json. The manifest also holds the
metric's values for other real images (`floor`) and for pure noise (`noise`).
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from psld.commands.entry import entry_point
from psld.data.description import expand_data
from psld.data.pixels import to_uint8, truncated
from psld.data.store import ImageStore
from psld.metrics.evaluation import check_measure
from psld.metrics.extractor import Extractor, batches_of, statistics_of
from psld.metrics.extractor_folder import load_extractor, read_manifest
from psld.metrics.frechet import frechet_distance
from psld.metrics.reference_folder import (
    ReferenceManifest,
    save_reference_manifest,
    save_statistics,
)
from psld.metrics.settings import MetricSettings, ReferenceSettings
from psld.metrics.statistics import FeatureStatistics
from psld.utils.device import choose_device
from psld.utils.errors import UserError
from psld.utils.provenance import device_name, provenance

NOISE_SAMPLES = 10_000


@entry_point("reference", ReferenceSettings, rewrite=expand_data)
def main(settings: ReferenceSettings) -> None:
    metric, folder = settings.metric, settings.extractor
    check_measure(metric)
    store = ImageStore.open_for(settings.data, settings.dataset)
    wanted = metric.reference_split
    if wanted != "all" and store.splits[wanted] == 0:
        raise UserError(f"{settings.data}: no {wanted} images; set metric.reference_split")
    extractor = load_extractor(metric, folder, store.digest, choose_device(settings.device))
    splits = statistics_of_splits(extractor, store, metric)
    reference = splits[wanted]
    noise = statistics_of_noise(extractor, store, reference.count, metric.batch_size)
    manifest = ReferenceManifest(
        metric=metric,
        dataset=settings.dataset.name,
        dataset_digest=store.digest,
        samples=reference.count,
        statistics_sha256=save_statistics(settings.output, reference),
        extractor_digest=extractor.digest,
        extractor_test_accuracy=read_manifest(folder).test_accuracy if folder else None,
        floor=frechet_distance(splits["train"], splits["test"]) if "test" in splits else None,
        noise=frechet_distance(reference, noise),
        device=device_name(extractor.device),
        **provenance(),
    )
    save_reference_manifest(settings.output, manifest)
    scale = f"{metric.name} of pure noise {manifest.noise:.4g}"
    if manifest.floor is not None:
        scale += f", of the test split {manifest.floor:.4g}"
    print(f"wrote {settings.output}: {scale}")


def statistics_of_splits(
    extractor: Extractor, store: ImageStore, metric: MetricSettings
) -> dict[str, FeatureStatistics]:
    """Compute the statistics of all images and of each split that the dataset has."""

    def images_of(split: str) -> Iterator[Tensor]:
        batches = batches_of(store.images(split), metric.batch_size)
        return map(truncated, batches) if metric.truncated_reference else batches

    splits = {
        split: statistics_of(extractor, images_of(split), split, size)
        for split, size in store.splits.items()
        if size > 0
    }
    first, *others = splits.values()
    return {**splits, "all": sum(others, start=first)}


def statistics_of_noise(
    extractor: Extractor, store: ImageStore, count: int, batch_size: int
) -> FeatureStatistics:
    """Compute the statistics of `count` images of noise, at most 10,000."""
    count = min(count, NOISE_SAMPLES)
    shape = (store.channels, store.image_size, store.image_size)
    return statistics_of(extractor, noise_images(count, shape, batch_size), "noise", count)


def noise_images(count: int, shape: tuple[int, int, int], batch_size: int) -> Iterator[Tensor]:
    """Yield batches of pure noise as images, the same images for any batch size."""
    random = np.random.default_rng(0)
    for start in range(0, count, batch_size):
        size = min(batch_size, count - start)
        yield to_uint8(torch.from_numpy(random.standard_normal((size, *shape), dtype=np.float32)))
