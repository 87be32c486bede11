"""Train the noise-conditional guide that guides a sampler: p(y | z_t, t) on noised images.

    psld train_guide guide=demo/psld-0.02          # a guide of a grid
    psld train_guide dataset=cifar10 process=psld network=guide-cifar10 \\
        training=guide-demo training.steps=100000

It serves models of the same dataset and process. Several ranks: as psld.train.
"""

from functools import partial
from typing import Any

from torch import nn

from psld.commands.entry import CONFIGS, entry_point
from psld.data.store import ImageStore
from psld.grid.loading import expand_guide
from psld.training.model import build_guide, build_process
from psld.diffusion.process import LinearProcess
from psld.training.accuracy import accuracy_by_time, as_logged
from psld.training.batches import Labels
from psld.diffusion.loss import GuideLoss
from psld.training.run import Task, run_training
from psld.training.settings import TrainGuideSettings


@entry_point(
    "train_guide",
    TrainGuideSettings,
    rewrite=lambda given: expand_guide(given, CONFIGS),
)
def main(settings: TrainGuideSettings) -> None:
    store = ImageStore.open_for(settings.data, settings.dataset)
    process = build_process(settings)
    task = Task(
        stage="train_guide",
        process=process,
        build=partial(build_guide, settings, process),
        loss_of=GuideLoss(process),
        labels=Labels(store.labels("train"), store.num_classes),
        look=lambda network: as_logged(accuracy_by_time(settings, process, store, network)),
        describe=partial(describe, settings, process, store),
    )
    run_training(settings, store, task)


def describe(
    settings: TrainGuideSettings,
    process: LinearProcess,
    store: ImageStore,
    network: nn.Module,
) -> dict[str, Any]:
    """The accuracy at each noise level, on images that the guide was not trained on."""
    accuracies = accuracy_by_time(settings, process, store, network)
    print(f"accuracy from little to much noise: {', '.join(f'{a:.2f}' for a in accuracies)}")
    return {"accuracy_by_time": accuracies}


if __name__ == "__main__":
    main()
