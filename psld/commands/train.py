"""Train a model: EMA weights and a manifest from a prepared dataset.

    psld train model=demo/psld-0.02 training.steps=100       # a model of a grid
    psld train dataset=digits process=psld process.gamma=0.02 network=demo training=demo
    psld train training.label_dropout=0.1                    # a class-conditional model
    psld train data=data/mine.h5 name=mine                   # size and classes come from the file

Several ranks: torchrun --nproc-per-node=4 -m psld train ...
"""

from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from psld.cluster.job import requeued_when_stopped
from psld.commands.command import FromRecord
from psld.commands.entry import entry_point
from psld.data.store import ImageStore
from psld.diffusion.loss import DenoiserLoss, EpsilonLoss
from psld.training.batches import Labels, noising
from psld.training.manifest import ModelManifest
from psld.training.model import build_network, build_process
from psld.training.preview import preview_samples
from psld.training.run import Task, run_training
from psld.training.settings import TRAINING_RUN, TrainSettings
from psld.training.start import denoiser_of_states, deviation, save_start
from psld.utils.device import device_of

RECORDS = {"model": FromRecord("models", TRAINING_RUN, changeable=True)}


@entry_point("train", TrainSettings, records=RECORDS)
def main(settings: TrainSettings) -> float:
    store = ImageStore.open_for(settings.data, settings.dataset)
    process = build_process(settings)
    labels, spread = None, 1.0
    if settings.num_classes:  # the model is class-conditional
        dropout = settings.training.label_dropout
        labels = Labels(store.labels("train"), settings.num_classes, dropout)
    if settings.serves_every_process:
        spread = deviation(store)
        loss = DenoiserLoss(noising(settings, process), spread)
    else:
        weighting = settings.training.weighting
        loss = EpsilonLoss(process, weighting, noising(settings, process))

    def finish(network: nn.Module, folder: Path, weights_sha256: str) -> dict[str, Any]:
        every = settings.serves_every_process
        denoise = network if every else denoiser_of_states(process, network)
        save_start(folder, store, denoise, weights_sha256, device_of(network))
        return {}

    task = Task(
        stage="train",
        manifest=ModelManifest,
        build=partial(build_network, settings, process, spread),
        loss_of=loss,
        labels=labels,
        preview=partial(preview_samples, settings, process),
        finish=finish,
    )
    with requeued_when_stopped() as on_start:
        return run_training(settings, store, task, on_start)
