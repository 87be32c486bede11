"""The counted memory of a training step is what torch's allocator gives out."""

import pytest
import torch
from torch import Tensor

from psld.data.settings import DatasetSettings
from psld.diffusion.settings import ProcessSettings, PSLDSettings
from psld.networks.forward import forward_pass
from psld.networks.settings import GuideSettings, NetworkSettings
from psld.training.batches import Batches, Labels
from psld.training.loop import optimize
from psld.training.memory import training_memory
from psld.training.model import build, build_process, objective
from psld.training.settings import GuideModelSettings, ModelSettings, TrainedSettings
from psld.training.state import TrainingState
from tests.allocated import most_allocated
from tests.training.small import ONE_RANK, random_images, recipe

DATA = {
    **{"name": "digits", "channels": 1, "image_size": 8, "num_classes": 10},
    **{"flip": True, "filter": None, "source": {"kind": "digits"}},
}
NETWORK = {
    **{"base_channels": 32, "channel_multipliers": (1, 2), "blocks_per_level": 1, "dropout": 0.0},
    **{"resampling": "fir", "attention_resolutions": (4,)},
}


PSLD = PSLDSettings(kind="psld", gamma=0.02)
MODEL = (ModelSettings, NetworkSettings)


def settings_of(
    kind: type, network: type, process: ProcessSettings = PSLD, **training
) -> TrainedSettings:
    return kind(
        dataset=DatasetSettings(**DATA),
        process=process,
        network=network(**NETWORK),
        training=recipe(batch_size=64, **training),
    )


TRAININGS = {
    "epsilon": settings_of(*MODEL),
    "bf16": settings_of(*MODEL, precision="bf16"),
    "classes": settings_of(*MODEL, label_dropout=0.1),
    "denoiser": settings_of(*MODEL, objective="denoiser"),
    "guide": settings_of(GuideModelSettings, GuideSettings),
}


def allocated(settings: TrainedSettings, images: int) -> int:
    """The peak of the bytes that torch allocates for a third real step, and has before it."""
    process, training = build_process(settings), settings.training
    training = training.model_copy(update={"micro_batch": images})
    loss_of = objective(settings, process)
    labels = Labels(torch.arange(50).remainder(10).numpy(), 10)
    if isinstance(settings, ModelSettings) and not settings.num_classes:
        labels = None
    batch = Batches(random_images(), True, loss_of.noising, training, ONE_RANK, labels).draw(0)
    state = TrainingState(build(settings, process).train(), training)
    called = forward_pass(state.network, training.precision)
    for _ in range(2):
        optimize(state, called, loss_of, batch, training)
    tensors = [*state.state_dict().values(), *vars(batch).values()]
    before = sum(x.nbytes for x in tensors if isinstance(x, Tensor))
    return before + most_allocated(lambda: optimize(state, called, loss_of, batch, training))


@pytest.mark.parametrize(("kind", "images"), [("epsilon", 64), *((kind, 16) for kind in TRAININGS)])
def test_what_is_counted_is_what_torch_allocates(kind, images):
    settings, generator = TRAININGS[kind], torch.get_rng_state()
    counted = training_memory(settings, images)
    assert torch.equal(torch.get_rng_state(), generator), "counting draws nothing"
    assert counted == pytest.approx(allocated(settings, images), rel=0.02)
