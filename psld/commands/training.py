"""Commands that create models and guides, by training or from official checkpoints.

The commands import torch after the settings are checked, so that help and errors appear quickly.
"""

from psld.cluster.job import requeued_when_stopped
from psld.commands.main import entry_point
from psld.models.settings import StartSettings
from psld.training.settings import (
    ImportGuideSettings,
    ImportModelSettings,
    TrainGuideSettings,
    TrainSettings,
)


@entry_point("train", TrainSettings, record="model", changeable=True)
def train(settings: TrainSettings) -> float:
    """Train a model on a prepared dataset; write EMA weights and a manifest.

        psld train model=demo/psld-0.02 training.steps=100       # a model of a grid
        psld train dataset=digits process=psld process.gamma=0.02 network=demo training=demo
        psld train training.label_dropout=0.1                    # a class-conditional model
        psld train data=data/mine.h5 name=mine                   # size and classes as in the file

    To train on several ranks: torchrun --nproc-per-node=4 -m psld train ...
    """
    with requeued_when_stopped() as on_start:
        from psld.training.run import run_training

        return run_training(settings, on_start)


@entry_point("train_guide", TrainGuideSettings, record="guide", changeable=True)
def train_guide(settings: TrainGuideSettings) -> float:
    """Train a guide: the noise-conditional classifier p(y | z_t, t) that steers a sampler.

        psld train_guide guide=demo/psld-0.02          # a guide of a grid
        psld train_guide dataset=cifar10 process=psld network=guide-cifar10 \\
            training=guide-demo training.steps=100000

    The guide works with all models of the same dataset and process. Train on several ranks as with
    `psld train`.
    """
    with requeued_when_stopped() as on_start:
        from psld.training.run import run_training

        return run_training(settings, on_start)


@entry_point("start", StartSettings, record="start")
def start(settings: StartSettings) -> None:
    """Fit the initial distribution (`start`) of samplers, a mixture of Gaussians, to a dataset.

        psld start dataset=digits                    # starts/digits.safetensors
        psld start dataset=digits classes=true       # also one mixture per class

    The mixture is fitted to the training images and works with all models of the dataset. `psld
    sample` fits the mixture if it is missing. The mixture does not protect privacy: an image can be
    reconstructed from two mixtures whose training images differ only in this image.
    """
    from psld.models.start import make_start
    from psld.sampling.settings import gaussians
    from psld.utils.device import use_device

    made = make_start(settings, use_device(settings.device))
    print(f"wrote {settings.path}: {gaussians(made.data.components())}, σ₀ = {made.level():.3g}")


IMPORT = {"also": {"weights"}, "changeable": True, "positionals": ("checkpoint",)}


@entry_point("import_model", ImportModelSettings, record="model", **IMPORT)
def import_model(settings: ImportModelSettings) -> None:
    """Import one checkpoint of the official code (mandt-lab/PSLD) as a model.

        psld import_model FILE model=paper/cifar10-cld
        psld import_model FILE dataset=cifar10 process=cld network=cifar10-ablation

    The file must contain exactly the parameters of the network, with the same shapes. Only tensors
    and plain containers are read from the file. The dataset need not be prepared. The workflow uses
    an imported model of a grid instead of training it; to train the model, delete its folder.
    """
    from psld.paper.checkpoints import import_weights

    import_weights(settings)


@entry_point("import_guide", ImportGuideSettings, record="guide", **IMPORT)
def import_guide(settings: ImportGuideSettings) -> None:
    """Import one checkpoint of the official code (mandt-lab/PSLD) as a guide.

    psld import_guide FILE guide=paper/cifar10-psld-0.01
    psld import_guide FILE dataset=cifar10 network=guide-cifar10 training=guide-cifar10
    """
    from psld.paper.checkpoints import import_weights

    import_weights(settings)
