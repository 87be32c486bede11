"""Prepare a dataset: find or download its source, decode, resize, and write one HDF5 file.

    psld prepare dataset=digits
    psld prepare dataset=celeba64 dataset.source.root=/data/celeba

Settings: configs/prepare.yaml.
"""

from pathlib import Path
from textwrap import shorten

from psld.commands.command import FromRecord
from psld.commands.entry import entry_point
from psld.data.preparation import prepare_dataset
from psld.data.settings import PrepareSettings

RECORDS = {"dataset": FromRecord("datasets", {"output"})}


@entry_point("prepare", PrepareSettings, records=RECORDS)
def main(settings: PrepareSettings) -> None:
    record = prepare_dataset(settings.dataset, Path(settings.output))
    count, channels, height, width = record["shape"]
    print(
        f"{settings.output}: {count:,} images of {channels}×{height}×{width} "
        f"({record['splits']['train']:,} train, {record['splits']['test']:,} test), "
        f"digest {record['digest'][:12]}"
    )
    if settings.dataset.num_classes:
        classes = ", ".join(f"{i} {name}" for i, name in enumerate(record["class_names"]))
        print(f"classes: {shorten(classes, 1000, placeholder=' …')}")
