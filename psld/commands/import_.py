"""Import checkpoints of the official code (mandt-lab/PSLD) as models or guides.

    psld import downloads/psld
    psld import FILE model=paper/cifar10-cld
    psld import FILE guide=paper/cifar10-psld-0.01
    psld import FILE dataset=cifar10 process=cld network=cifar10-ablation
    psld import FILE kind=guide dataset=cifar10 network=guide-cifar10 training=guide-cifar10

With files and folders alone (and `grid_name=NAME`, by default `paper`, or `replace=true`), each
file's model in the grid is recognized by the shapes of its layers, and Γ by `gamma=Γ` in its path.
From then on the workflow imports these models and guides in place of training them.

Otherwise the weights are written at once. Only tensors and plain containers are read from a file.
Its parameters must be those of the network, with the same shapes and no others. The dataset need
not be prepared. The workflow does not train a grid's model that is imported by its name either. To
have it trained, delete the model's folder.
"""

import sys

from psld.commands.command import FromRecord
from psld.commands.entry import entry_point
from psld.grid.cache import load_grid
from psld.training import official
from psld.training.manifest import note_checkpoint
from psld.training.official import import_files
from psld.training.settings import (
    TRAINING_RUN,
    ImportFilesSettings,
    ImportGuideSettings,
    ImportModelSettings,
)

RUN = TRAINING_RUN | {"checkpoint", "weights", "kind", "replace"}


@entry_point(
    "import",
    ImportModelSettings,
    records={"model": FromRecord("models", RUN, changeable=True)},
    bare="checkpoint",
)
def import_model(settings: ImportModelSettings) -> None:
    official.import_model(settings)
    # The workflow imports what the paper samples.
    _note(settings.output, settings.checkpoint if settings.weights == "ema" else None)


@entry_point(
    "import_guide",
    ImportGuideSettings,
    records={"guide": FromRecord("guides", RUN, changeable=True)},
    bare="checkpoint",
)
def import_guide(settings: ImportGuideSettings) -> None:
    official.import_guide(settings)
    _note(settings.output, settings.checkpoint)


@entry_point("import", ImportFilesSettings, bare="files", has_config=False)
def import_recognized(settings: ImportFilesSettings) -> None:
    grid = load_grid(settings.grid_name)
    records = (*grid.models.values(), *grid.guides.values())
    import_files(settings, [each.settings for each in records if not each.is_trained_elsewhere])


def _note(folder: str, checkpoint: str | None) -> None:
    """Note the checkpoint of a grid's model for the workflow, unless the workflow runs this."""
    keys = {word.partition("=")[0] for word in sys.argv[1:]}
    if keys & {"model", "guide"} and "record" not in keys:
        note_checkpoint(folder, checkpoint)


def main() -> None:
    """Recognize what files are, unless other words say it or set anything else."""
    words = sys.argv[1:]
    keys = {word.partition("=")[0] for word in words if not import_recognized.command.is_bare(word)}
    flags = any(word.startswith(("-", "hydra")) for word in words)
    if words and not flags and keys <= {"grid_name", "replace"}:
        import_recognized()
    elif "guide" in keys or "kind=guide" in words:
        import_guide()
    else:
        import_model()
