"""Compute the reference of a dataset: the features of its images, and of noise for the scale.

    psld reference dataset=digits metric=fd-classifier
    psld reference dataset=cifar10 metric=fid extractor=null

Metrics with the same `features` share a reference. Writes OUTPUT/features.safetensors and, last,
OUTPUT/manifest.json.
"""

from psld.commands.command import FromRecord
from psld.commands.entry import entry_point
from psld.metrics.command_settings import ReferenceSettings
from psld.metrics.reference_folder import make_reference

RUN = {"data", "extractor", "output", "device"}
RECORDS = {"features": FromRecord("features", RUN, "reference_job")}


@entry_point("reference", ReferenceSettings, records=RECORDS)
def main(settings: ReferenceSettings) -> None:
    images = make_reference(settings).images
    counts = ", ".join(f"{count} of {name}" for name, count in images.items())
    print(f"wrote {settings.output}: features of images: {counts}")
