"""The settings of one thing that a grid names, composed as its command would see them."""

from collections.abc import Sequence

from psld.config.compose import compose_content
from psld.config.settings import Settings, parse
from psld.data.settings import DatasetSettings
from psld.metrics.settings import MetricSettings
from psld.sampling.settings import SamplerSettings
from psld.training.settings import (
    GuideModelSettings,
    ModelSettings,
    TrainGuideSettings,
    TrainSettings,
)


class _Sampler(Settings):
    """The part of a command's settings that is the sampler."""

    sampler: SamplerSettings


def compose_dataset(name: str, where: str) -> DatasetSettings:
    content = compose_content("prepare", [f"dataset={name}"], where)
    return parse(DatasetSettings, content["dataset"], where)


def compose_model(overrides: Sequence[str], where: str) -> ModelSettings:
    content = compose_content("train", [*overrides, "name=x", "grid_name=x"], where)
    return parse(TrainSettings, content, where).model()


def compose_guide(overrides: Sequence[str], where: str) -> GuideModelSettings:
    content = compose_content("train_guide", [*overrides, "name=x", "grid_name=x"], where)
    return parse(TrainGuideSettings, content, where).model()


def compose_sampler(overrides: Sequence[str], where: str) -> SamplerSettings:
    content = compose_content("sample", [*overrides, "model=x", "output=x"], where)
    return parse(_Sampler, {"sampler": content["sampler"]}, where).sampler


def compose_metric(name: str, where: str) -> MetricSettings:
    content = compose_content("reference", [f"metric={name}"], where)
    return parse(MetricSettings, content["metric"], where)
