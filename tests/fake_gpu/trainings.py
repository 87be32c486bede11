"""The settings of small trainings of each kind."""

from psld.data.settings import DatasetSettings
from psld.diffusion.settings import ProcessSettings, PSLDSettings
from psld.models.settings import GuideModelSettings, ModelSettings, TrainedSettings
from psld.networks.settings import GuideSettings, NetworkSettings
from tests.training.small import recipe

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
    "guide": settings_of(GuideModelSettings, GuideSettings, objective="guide"),
}
