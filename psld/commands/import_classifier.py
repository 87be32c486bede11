"""Import a guide of the official code, which guides samplers, as if it were trained here.

    psld import_guide FILE guide=paper/cifar10-psld-0.01

As psld.import_checkpoint, which imports models.
"""

from psld.commands.entry import CONFIGS, entry_point
from psld.grid.loading import expand_guide
from psld.commands.import_ import ImportSettings, name_the_file, save_imported
from psld.training.model import build_guide, build_process
from psld.networks.official_checkpoint import read_checkpoint
from psld.training.settings import TrainGuideSettings


class ImportGuideSettings(TrainGuideSettings, ImportSettings):
    """Settings of `psld import_guide`."""


@entry_point(
    "import_guide",
    ImportGuideSettings,
    rewrite=lambda given: expand_guide(name_the_file(given), CONFIGS),
)
def main(settings: ImportGuideSettings) -> None:
    checkpoint = read_checkpoint(settings.checkpoint)
    network = build_guide(settings, build_process(settings))
    # The official code keeps no moving average of a guide.
    save_imported(settings, network, checkpoint.online, "online", checkpoint.step)


if __name__ == "__main__":
    main()
