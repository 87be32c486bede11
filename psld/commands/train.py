"""Train a model: EMA weights and a manifest from a prepared dataset.

    psld train model=demo/psld-0.02 training.steps=100       # a model of a grid
    psld train dataset=digits process=psld process.gamma=0.02 network=demo training=demo
    psld train training.label_dropout=0.1                    # a class-conditional model
    psld train data=data/mine.h5 name=mine                   # size and classes come from the file

Several ranks: torchrun --nproc-per-node=4 -m psld train ...
"""

from functools import partial

from psld.cluster.job import requeued_when_stopped
from psld.commands.command import FromRecord
from psld.commands.entry import entry_point
from psld.data.store import ImageStore
from psld.diffusion.loss import EpsilonLoss
from psld.training.batches import Labels
from psld.training.manifest import ModelManifest
from psld.training.model import build_network
from psld.training.preview import preview_samples
from psld.training.run import Task, run_training
from psld.training.settings import TRAINING_RUN, TrainSettings

RECORDS = {"model": FromRecord("models", TRAINING_RUN, changeable=True)}


@entry_point("train", TrainSettings, records=RECORDS)
def main(settings: TrainSettings) -> None:
    store = ImageStore.open_for(settings.data, settings.dataset)
    process = settings.process.build()
    labels = None
    if settings.num_classes:  # the model is class-conditional
        dropout = settings.training.label_dropout
        labels = Labels(store.labels("train"), settings.num_classes, dropout)
    task = Task(
        stage="train",
        manifest=ModelManifest,
        process=process,
        build=partial(build_network, settings, process),
        loss_of=EpsilonLoss(process, settings.training.weighting),
        labels=labels,
        preview=partial(preview_samples, settings, process),
        describe=lambda network: {},
    )
    with requeued_when_stopped() as on_start:
        run_training(settings, store, task, on_start)
