"""Import a checkpoint of the official code (mandt-lab/PSLD) as a model or guide.

    psld import FILE model=paper/cifar10-cld
    psld import FILE dataset=cifar10 process=cld network=cifar10-ablation
    psld import FILE guide=paper/cifar10-psld-0.01
    psld import FILE kind=guide dataset=cifar10 network=guide-cifar10 training=guide-cifar10

Only tensors and plain containers are read from the file. Its parameters must be those of the
network, with the same shapes and no others. The dataset need not be prepared.
"""

import sys

from psld.commands.command import FromRecord
from psld.commands.entry import entry_point
from psld.training import official
from psld.training.settings import TRAINING_RUN, ImportGuideSettings, ImportModelSettings

RUN = TRAINING_RUN | {"checkpoint", "weights", "kind"}


@entry_point(
    "import",
    ImportModelSettings,
    records={"model": FromRecord("models", RUN, changeable=True)},
    bare="checkpoint",
)
def import_model(settings: ImportModelSettings) -> None:
    official.import_model(settings)


@entry_point(
    "import_guide",
    ImportGuideSettings,
    records={"guide": FromRecord("guides", RUN, changeable=True)},
    bare="checkpoint",
)
def import_guide(settings: ImportGuideSettings) -> None:
    official.import_guide(settings)


def main() -> None:
    """Import a guide if the command line has `guide=` or `kind=guide`, else a model."""
    guide = any(word == "kind=guide" or word.startswith("guide=") for word in sys.argv[1:])
    (import_guide if guide else import_model)()
