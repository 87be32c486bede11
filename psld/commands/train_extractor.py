"""Train the feature classifier of a dataset.

    psld train_extractor dataset=digits metric=fd-classifier

Writes OUTPUT/weights.safetensors and, last, OUTPUT/manifest.json.
"""

from psld.commands.command import FromRecord
from psld.commands.entry import entry_point
from psld.metrics.classifier import make_extractor
from psld.metrics.command_settings import TrainExtractorSettings

RECORDS = {"features": FromRecord("features", {"data", "output", "device"}, "extractor_job")}


@entry_point("train_extractor", TrainExtractorSettings, records=RECORDS)
def main(settings: TrainExtractorSettings) -> None:
    manifest = make_extractor(settings)
    test = manifest.test_accuracy
    on_test = "" if test is None else f", {test:.1%} on test"
    print(f"wrote {settings.output}: accuracy {manifest.train_accuracy:.1%} on train{on_test}")
