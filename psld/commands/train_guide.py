"""Train a guide: the noise-conditional classifier p(y | z_t, t) that steers a sampler.

    psld train_guide guide=demo/psld-0.02          # a guide of a grid
    psld train_guide dataset=cifar10 process=psld network=guide-cifar10 \\
        training=guide-demo training.steps=100000

The guide fits models of the same dataset and process. Several ranks: as for psld train.
"""

from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from psld.cluster.job import requeued_when_stopped
from psld.commands.command import FromRecord
from psld.commands.entry import entry_point
from psld.data.store import ImageStore
from psld.diffusion.loss import GuideLoss
from psld.training.batches import Labels, noising
from psld.training.manifest import GuideManifest
from psld.training.model import build_guide, build_process
from psld.training.preview import accuracy_by_time, as_logged, split_of_accuracy
from psld.training.run import Task, run_training
from psld.training.settings import TRAINING_RUN, TrainGuideSettings

RECORDS = {"guide": FromRecord("guides", TRAINING_RUN, changeable=True)}


@entry_point("train_guide", TrainGuideSettings, records=RECORDS)
def main(settings: TrainGuideSettings) -> float:
    store = ImageStore.open_for(settings.data, settings.dataset)
    process = build_process(settings)
    accuracies = partial(accuracy_by_time, settings, process, store)

    def finish(network: nn.Module, folder: Path, weights_sha256: str) -> dict[str, Any]:
        by_time = accuracies(network)
        shown = ", ".join(f"{a:.2f}" for a in by_time)
        split = split_of_accuracy(store)
        print(f"accuracy on the {split} split, from little to much noise: {shown}")
        return {"accuracy_by_time": by_time}

    task = Task(
        stage="train_guide",
        manifest=GuideManifest,
        build=partial(build_guide, settings, process),
        loss_of=GuideLoss(noising(settings, process)),
        labels=Labels(store.labels("train"), store.num_classes),
        preview=lambda network, _: as_logged(accuracies(network)),
        finish=finish,
    )
    with requeued_when_stopped() as on_start:
        return run_training(settings, store, task, on_start)
