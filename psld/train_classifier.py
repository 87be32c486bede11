"""Train the noise-conditional classifier that guides a sampler: p(y | z_t, t) on noised images.

    python -m psld.train_classifier classifier=demo/psld-0.02          # a classifier of a grid
    python -m psld.train_classifier dataset=cifar10 process=psld network=classifier-cifar10 \\
        training=classifier-demo training.steps=100000

It serves models of the same dataset and process. Several ranks: as psld.train.
"""

from functools import partial
from typing import Any

from torch import nn

from psld.cli import CONFIGS, entry_point
from psld.datasets.store import ImageStore
from psld.grid import expand_classifier
from psld.model import build_classifier, build_process
from psld.processes.linear import LinearProcess
from psld.training.accuracy import accuracy_by_time, as_logged
from psld.training.batches import Labels
from psld.training.loss import ClassifierLoss
from psld.training.run import Task, run_training
from psld.training.settings import TrainClassifierSettings


@entry_point(
    "train_classifier",
    TrainClassifierSettings,
    rewrite=lambda given: expand_classifier(given, CONFIGS),
)
def main(settings: TrainClassifierSettings) -> None:
    store = ImageStore.open_for(settings.data, settings.dataset)
    process = build_process(settings)
    task = Task(
        stage="train_classifier",
        process=process,
        build=partial(build_classifier, settings, process),
        loss_of=ClassifierLoss(process),
        labels=Labels(store.labels("train"), store.num_classes),
        look=lambda network: as_logged(accuracy_by_time(settings, process, store, network)),
        describe=partial(describe, settings, process, store),
    )
    run_training(settings, store, task)


def describe(
    settings: TrainClassifierSettings,
    process: LinearProcess,
    store: ImageStore,
    network: nn.Module,
) -> dict[str, Any]:
    """The accuracy at each noise level, on images that the classifier was not trained on."""
    accuracies = accuracy_by_time(settings, process, store, network)
    print(f"accuracy from little to much noise: {', '.join(f'{a:.2f}' for a in accuracies)}")
    return {"accuracy_by_time": accuracies}


if __name__ == "__main__":
    main()
