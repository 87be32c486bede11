"""Compose the settings of one model, guide, sampler, dataset or metric, as its command does."""

from collections.abc import Callable, Sequence
from typing import Any

from psld.config.compose import compose_content
from psld.config.settings import Settings, parse
from psld.data.settings import DatasetSettings
from psld.diffusion.samplers import SamplerSettings
from psld.metrics.settings import (
    LikelihoodCommandSettings,
    LikelihoodSettings,
    MetricSettings,
)
from psld.training.settings import (
    GuideModelSettings,
    ModelSettings,
    TrainGuideSettings,
    TrainSettings,
)
from psld.utils.errors import UserError
from psld.utils.files import digest_of

Compose = Callable[[str, Sequence[str], str], dict[str, Any]]
"""A function like `compose_content`: the content of a command's config with overrides."""


class _Sampler(Settings):
    """The sampler part of a command's settings."""

    sampler: SamplerSettings


_composed: dict[str, dict[str, Any]] = {}
"""The contents composed in this process, by their key; several grids have the same models."""


class Compositions:
    """A cache of composed contents, shared by processes: Hydra takes 0.1 s for each content."""

    def __init__(self, configs: str, earlier: dict[str, dict[str, Any]]) -> None:
        """Start with contents from earlier processes.

        Args:
            configs: digest of everything that a content may depend on besides its overrides.
            earlier: the `made` of an earlier process.
        """
        self.made: dict[str, dict[str, Any]] = {}
        self._configs = configs
        self._earlier = earlier

    def __call__(self, name: str, overrides: Sequence[str], where: str) -> dict[str, Any]:
        key = digest_of([self._configs, name, *overrides])
        if key not in self.made:
            known = self._earlier.get(key) or _composed.get(key)
            if known is None:
                known = _composed[key] = compose_content(name, overrides, where)
            self.made[key] = known
        return self.made[key]


def compose_dataset(name: str, where: str, compose: Compose = compose_content) -> DatasetSettings:
    content = compose("prepare", [f"dataset={name}"], where)
    return parse(DatasetSettings, content["dataset"], where)


def compose_model(
    overrides: Sequence[str], where: str, compose: Compose = compose_content
) -> ModelSettings:
    content = compose("train", [*overrides, "name=x", "grid_name=x"], where)
    return parse(TrainSettings, content, where).model()


def compose_guide(
    overrides: Sequence[str], where: str, compose: Compose = compose_content
) -> GuideModelSettings:
    content = compose("train_guide", [*overrides, "name=x", "grid_name=x"], where)
    return parse(TrainGuideSettings, content, where).model()


def compose_sampler(
    overrides: Sequence[str], where: str, compose: Compose = compose_content
) -> SamplerSettings:
    content = compose("sample", [*overrides, "model=x", "output=x"], where)
    return parse(_Sampler, {"sampler": content["sampler"]}, where).sampler


def compose_metric(name: str, where: str, compose: Compose = compose_content) -> MetricSettings:
    """Compose a metric. Raises UserError if it shares the features of another extractor."""
    metric = _compose_metric(name, where, compose)
    if metric.features != name:
        shared = _compose_metric(metric.features, where, compose)
        made, wanted = (
            (each.extractor.identity(), each.truncated_reference) for each in (shared, metric)
        )
        if made != wanted:
            raise UserError(
                f"{where}: configs/metric/{name}.yaml: features: {shared.name} has another "
                f"extractor; set features: {name}"
            )
    return metric


def _compose_metric(name: str, where: str, compose: Compose) -> MetricSettings:
    content = compose("reference", [f"metric={name}"], where)
    metric = parse(MetricSettings, content["metric"], where)
    if metric.name != name:
        raise UserError(f"{where}: configs/metric/{name}.yaml: name: {name}, not {metric.name}")
    return metric


def compose_likelihood(
    overrides: Sequence[str], where: str, compose: Compose = compose_content
) -> LikelihoodSettings:
    content = compose("likelihood", [*overrides, "model=x", "output=x.json"], where)
    parsed = parse(LikelihoodCommandSettings, content, where)
    return LikelihoodSettings(**parsed.model_dump(include=set(LikelihoodSettings.model_fields)))
