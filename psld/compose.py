"""Composing settings from Hydra overrides outside of a command, without torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from psld.cli import content_of
from psld.datasets.settings import DatasetSettings
from psld.errors import UserError
from psld.metrics.settings import MetricSettings
from psld.samplers.settings import SampleSettings
from psld.settings import parse
from psld.training.settings import ModelSettings, TrainSettings


class Composer:
    """Composes what a command would see for some overrides."""

    def __init__(self, configs: Path) -> None:
        self.configs = configs.resolve()

    def content(self, name: str, overrides: Sequence[str], where: str) -> dict[str, Any]:
        """The resolved content of configs/NAME.yaml; UserError naming `where` if it fails."""
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(str(self.configs), version_base="1.3"):
                config = compose(name, overrides=list(overrides))
            return content_of(config, where)
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(f"{where}: {' '.join(str(error).split())}") from None

    def dataset(self, name: str, where: str) -> DatasetSettings:
        content = self.content("prepare", [f"dataset={name}"], where)
        return parse(DatasetSettings, content["dataset"], where)

    def model(self, overrides: Sequence[str], where: str) -> ModelSettings:
        content = self.content("train", [*overrides, "name=x", "grid_name=x"], where)
        return parse(TrainSettings, content, where).model()

    def sampler(self, overrides: Sequence[str], where: str) -> dict[str, Any]:
        content = self.content("sample", [*overrides, "model=x", "output=x"], where)
        return parse(SampleSettings, content, where).sampler.model_dump(mode="json")

    def metric(self, name: str, where: str) -> dict[str, Any]:
        content = self.content("reference", [f"metric={name}"], where)
        return parse(MetricSettings, content["metric"], where).model_dump(mode="json")
