"""Train the feature classifier of a dataset.

    psld train_extractor dataset=digits metric=fd-classifier

Writes OUTPUT/weights.safetensors and, last, OUTPUT/manifest.json.
"""

import time
from pathlib import Path

from psld.commands.entry import FromRecord, entry_point
from psld.config.settings import write_record
from psld.data.store import ImageStore
from psld.grid import jobs
from psld.metrics.extractor_folder import MANIFEST, ExtractorManifest, save_weights
from psld.metrics.extractor_training import accuracy, train_classifier
from psld.metrics.feature_classifier import ImageShape
from psld.metrics.settings import TrainExtractorSettings
from psld.utils.device import use_device
from psld.utils.errors import UserError
from psld.utils.provenance import device_name, provenance

RECORDS = {"features": FromRecord(jobs.train_extractor, {"data", "output", "device"})}


@entry_point("train_extractor", TrainExtractorSettings, records=RECORDS)
def main(settings: TrainExtractorSettings) -> None:
    store = ImageStore.open_for(settings.data, settings.dataset)
    if store.num_classes < 2:
        raise UserError(
            f"{settings.data}: dataset {settings.dataset.name} has no labels to train a classifier "
            "with; use metric=fid"
        )
    shape = ImageShape(
        channels=store.channels, image_size=store.image_size, num_classes=store.num_classes
    )
    device = use_device(settings.device)
    started = time.monotonic()
    extractor = train_classifier(
        settings.metric.extractor, shape, store.images("train"), store.labels("train"), device
    )
    seconds = time.monotonic() - started
    batch_size = settings.metric.batch_size
    accuracies = {
        split: accuracy(extractor, store.images(split), store.labels(split), batch_size)
        for split, size in store.splits.items()
        if size > 0
    }
    manifest = ExtractorManifest(
        extractor=settings.metric.extractor,
        shape=shape,
        dataset=settings.dataset.name,
        dataset_digest=store.digest,
        digest=save_weights(settings.output, extractor),
        train_accuracy=accuracies["train"],
        test_accuracy=accuracies.get("test"),
        seconds=round(seconds, 3),
        device=device_name(device),
        **provenance(),
    )
    write_record(Path(settings.output) / MANIFEST, manifest)  # it completes the folder
    listed = ", ".join(f"{value:.1%} on {split}" for split, value in accuracies.items())
    print(f"wrote {settings.output}: accuracy {listed}")
