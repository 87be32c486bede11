"""Commands that make models and guides: by training, or from official checkpoints."""

from psld.cluster.job import requeued_when_stopped
from psld.commands.main import entry_point
from psld.config.locations import config_names
from psld.grid.cache import load_grid
from psld.paper.checkpoints import import_files, import_weights
from psld.sampling.settings import gaussians
from psld.training.manifest import note_checkpoint
from psld.training.run import run_training
from psld.training.settings import (
    ImportFilesSettings,
    ImportGuideSettings,
    ImportModelSettings,
    StartSettings,
    TrainGuideSettings,
    TrainSettings,
)
from psld.training.start import make_start
from psld.utils.device import use_device


@entry_point("train", TrainSettings, record="model", changeable=True)
def train(settings: TrainSettings) -> float:
    """Train a model: EMA weights and a manifest from a prepared dataset.

        psld train model=demo/psld-0.02 training.steps=100       # a model of a grid
        psld train dataset=digits process=psld process.gamma=0.02 network=demo training=demo
        psld train training.label_dropout=0.1                    # a class-conditional model
        psld train data=data/mine.h5 name=mine                   # size and classes of the file

    Several ranks: torchrun --nproc-per-node=4 -m psld train ...
    """
    with requeued_when_stopped() as on_start:
        return run_training(settings, on_start)


@entry_point("train_guide", TrainGuideSettings, record="guide", changeable=True)
def train_guide(settings: TrainGuideSettings) -> float:
    """Train a guide: the noise-conditional classifier p(y | z_t, t) that steers a sampler.

        psld train_guide guide=demo/psld-0.02          # a guide of a grid
        psld train_guide dataset=cifar10 process=psld network=guide-cifar10 \\
            training=guide-demo training.steps=100000

    The guide fits models of the same dataset and process. Several ranks: as for psld train.
    """
    with requeued_when_stopped() as on_start:
        return run_training(settings, on_start)


@entry_point("start", StartSettings, record="start")
def start(settings: StartSettings) -> None:
    """Fit the start of samplers to a dataset's training images: a mixture of Gaussians.

        psld start dataset=digits                    # starts/digits.safetensors
        psld start dataset=digits classes=true       # of each class, too

    It serves all models of the dataset, and depends on no network. `psld sample` makes it when it
    needs one. It is not private: two starts of images that differ in one image give that image.
    """
    made = make_start(settings, use_device(settings.device))
    print(f"wrote {settings.path}: {gaussians(made.data.components())}, σ₀ = {made.level():.3g}")


@entry_point("import", ImportFilesSettings, bare="files …", has_config=False)
def import_(settings: ImportFilesSettings) -> None:
    """Have the workflow import official checkpoints (mandt-lab/PSLD) in place of training.

        psld import downloads/psld

    Each file's model in the grid is recognized by the shapes of its layers, and Γ by `gamma=Γ` in
    its path. Only tensors and plain containers are read from a file. To have a model trained
    again, delete its folder. psld import_model and import_guide import one file at once.
    """
    grid = load_grid(settings.grid_name)
    records = (*grid.models.values(), *grid.guides.values())
    import_files(settings, [each.settings for each in records if each.made_by])


IMPORT = {"changeable": True, "bare": "checkpoint"}


@entry_point("import_model", ImportModelSettings, record="model", **IMPORT)
def import_model(settings: ImportModelSettings) -> None:
    """Import one checkpoint of the official code (mandt-lab/PSLD) as a model.

        psld import_model FILE model=paper/cifar10-cld
        psld import_model FILE dataset=cifar10 process=cld network=cifar10-ablation

    The file's parameters must be those of the network, with the same shapes and no others. The
    dataset need not be prepared. The workflow does not train a grid's model that is imported.
    """
    # The workflow imports what the paper samples.
    _import(settings, settings.checkpoint if settings.weights == "ema" else None)


@entry_point("import_guide", ImportGuideSettings, record="guide", **IMPORT)
def import_guide(settings: ImportGuideSettings) -> None:
    """Import one checkpoint of the official code (mandt-lab/PSLD) as a guide.

    psld import_guide FILE guide=paper/cifar10-psld-0.01
    psld import_guide FILE dataset=cifar10 network=guide-cifar10 training=guide-cifar10
    """
    _import(settings, settings.checkpoint)


def _import(settings: ImportModelSettings | ImportGuideSettings, checkpoint: str | None) -> None:
    """Import, and note the checkpoint of a grid's model for the workflow, unless the grid does."""
    import_weights(settings)
    if settings.grid_name in config_names("grid"):
        file = load_grid(settings.grid_name).file
        entries = file.trainings if settings.makes == "model" else file.guides
        if settings.name in entries and not entries[settings.name].checkpoint:
            note_checkpoint(settings.output, checkpoint)
