"""Compose the settings of a training from overrides, as `psld train` does."""

from collections.abc import Sequence

from psld.config.compose import compose_content
from psld.config.settings import parse
from psld.training.settings import TrainSettings


def compose_model(overrides: Sequence[str], where: str) -> TrainSettings:
    return parse(TrainSettings, compose_content("train", [*overrides, "name=x"], where), where)
