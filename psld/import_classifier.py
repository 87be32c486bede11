"""Import a classifier of the official code, which guides samplers, as if it were trained here.

    python -m psld.import_classifier FILE classifier=paper/cifar10-psld-0.01

As psld.import_checkpoint, which imports models.
"""

from psld.cli import CONFIGS, entry_point
from psld.grid import expand_classifier
from psld.import_checkpoint import ImportSettings, name_the_file, save_imported
from psld.model import build_classifier, build_process
from psld.networks.official_checkpoint import read_checkpoint
from psld.training.settings import TrainClassifierSettings


class ImportClassifierSettings(TrainClassifierSettings, ImportSettings):
    """Settings of `python -m psld.import_classifier`."""


@entry_point(
    "import_classifier",
    ImportClassifierSettings,
    rewrite=lambda given: expand_classifier(name_the_file(given), CONFIGS),
)
def main(settings: ImportClassifierSettings) -> None:
    checkpoint = read_checkpoint(settings.checkpoint)
    network = build_classifier(settings, build_process(settings))
    # The official code keeps no moving average of a classifier.
    save_imported(settings, network, checkpoint.online, "online", checkpoint.step)


if __name__ == "__main__":
    main()
