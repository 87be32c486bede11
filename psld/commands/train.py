"""Train a model: EMA weights and manifest from a prepared dataset.

    psld train model=demo/psld-0.02 training.steps=100       # a model of a grid
    psld train dataset=digits process=psld process.gamma=0.02 network=demo training=demo
    psld train training.label_dropout=0.1                    # a class-conditional one

Several ranks: torchrun --nproc-per-node=4 -m psld train ...
"""

from functools import partial

from psld.commands.entry import CONFIGS, entry_point
from psld.data.store import ImageStore
from psld.grid.loading import expand_model
from psld.training.model import build_network, build_process
from psld.training.batches import Labels
from psld.diffusion.loss import EpsilonLoss
from psld.training.preview import preview_samples
from psld.training.run import Task, run_training
from psld.training.settings import TrainSettings


@entry_point("train", TrainSettings, rewrite=lambda given: expand_model(given, CONFIGS))
def main(settings: TrainSettings) -> None:
    store = ImageStore.open_for(settings.data, settings.dataset)
    process = build_process(settings)
    task = Task(
        stage="train",
        process=process,
        build=partial(build_network, settings, process),
        loss_of=EpsilonLoss(process, settings.training.weighting),
        labels=labels_of(settings, store),
        look=partial(preview_samples, settings, process),
        describe=lambda network: {},
    )
    run_training(settings, store, task)


def labels_of(settings: TrainSettings, store: ImageStore) -> Labels | None:
    """What a class-conditional model is told of the training images."""
    if not settings.num_classes:
        return None
    dropout = settings.training.label_dropout
    return Labels(store.labels("train"), settings.num_classes, dropout)


if __name__ == "__main__":
    main()
