"""Composing settings from Hydra overrides outside of a command, without torch: one or a grid's."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from psld.cli import content_of
from psld.datasets.settings import DatasetSettings
from psld.errors import UserError
from psld.figures.contents import PLOTS
from psld.grid import ComposedSampler, ComposedTraining, Grid
from psld.grid_file import Evaluation, GridFile
from psld.metrics.settings import MetricSettings
from psld.reporting import text_of
from psld.samplers.fit import check_fit
from psld.samplers.settings import ClassifierGuidance, DigitsMask, SamplerSettings
from psld.settings import Settings, parse
from psld.training.settings import (
    ClassifierModelSettings,
    ModelSettings,
    TrainClassifierSettings,
    TrainSettings,
)


class _Sampler(Settings):
    """The part of a command's settings that is the sampler."""

    sampler: SamplerSettings


class Composer:
    """Composes what a command would see for some overrides."""

    def __init__(self, configs: Path) -> None:
        self.configs = configs.resolve()

    def content(self, name: str, overrides: Sequence[str], where: str) -> dict[str, Any]:
        """The resolved content of configs/NAME.yaml; UserError naming `where` if it fails."""
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(str(self.configs), version_base="1.3"):
                config = compose(name, overrides=list(overrides), return_hydra_config=True)
            with _asked_by_resolvers(config):
                own = [key for key in config if key != "hydra"]
                return content_of(OmegaConf.masked_copy(config, own), where)
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(f"{where}: {text_of(error)}") from None

    def dataset(self, name: str, where: str) -> DatasetSettings:
        content = self.content("prepare", [f"dataset={name}"], where)
        return parse(DatasetSettings, content["dataset"], where)

    def model(self, overrides: Sequence[str], where: str) -> ModelSettings:
        content = self.content("train", [*overrides, "name=x", "grid_name=x"], where)
        return parse(TrainSettings, content, where).model()

    def classifier(self, overrides: Sequence[str], where: str) -> ClassifierModelSettings:
        content = self.content("train_classifier", [*overrides, "name=x", "grid_name=x"], where)
        return parse(TrainClassifierSettings, content, where).model()

    def sampler(self, overrides: Sequence[str], where: str) -> SamplerSettings:
        content = self.content("sample", [*overrides, "model=x", "output=x"], where)
        return parse(_Sampler, {"sampler": content["sampler"]}, where).sampler

    def metric(self, name: str, where: str) -> MetricSettings:
        content = self.content("reference", [f"metric={name}"], where)
        return parse(MetricSettings, content["metric"], where)


@contextmanager
def _asked_by_resolvers(config: DictConfig) -> Iterator[None]:
    """Within, `${hydra:…}` means this config, not that of a command which runs around it."""
    asked = HydraConfig.instance()
    before, asked.cfg = asked.cfg, config
    try:
        yield
    finally:
        asked.cfg = before


def compose_grid(name: str, file: GridFile, path: Path, configs: Path) -> Grid:
    """Resolve everything that a grid file names.

    Raises UserError, naming file and key, where something does not compose, or where a sampler
    cannot sample a model that a table, a figure or the gallery gives it.
    """
    composer = Composer(configs)
    evaluations = [
        e for table in file.tables for row in file.table_evaluations(table) for e in row if e
    ]
    evaluations = list(dict.fromkeys(evaluations))
    figures = [cell.partition("/")[2] for cell in file.pictures.values()]
    samplers = dict.fromkeys([*(evaluation.sampler for evaluation in evaluations), *figures])
    overrides = {sampler: file.overrides_of(sampler) for sampler in samplers}
    parsed = _Parsed(
        file,
        path,
        models={
            model: composer.model((*file.defaults, *own.overrides), f"{path}: models.{model}")
            for model, own in file.models.items()
        },
        classifiers={
            classifier: composer.classifier(own.overrides, f"{path}: classifiers.{classifier}")
            for classifier, own in file.classifiers.items()
        },
        samplers={
            sampler: composer.sampler(own, f"{path}: sampler {sampler}")
            for sampler, own in overrides.items()
        },
        metrics={
            metric: composer.metric(metric, f"{path}: metric {metric}")
            for metric in dict.fromkeys(evaluation.metric for evaluation in evaluations)
        },
    )
    parsed.check_cells(evaluations)
    parsed.check_figures()
    parsed.check_tables()
    return Grid(
        name=name,
        file=file,
        models={
            model: ComposedTraining(
                overrides=(*file.defaults, *file.models[model].overrides),
                checkpoint=file.models[model].checkpoint,
                dataset=settings.dataset.name,
                settings=settings.identity(),
            )
            for model, settings in parsed.models.items()
        },
        classifiers={
            classifier: ComposedTraining(
                overrides=file.classifiers[classifier].overrides,
                checkpoint=file.classifiers[classifier].checkpoint,
                dataset=settings.dataset.name,
                settings=settings.identity(),
            )
            for classifier, settings in parsed.classifiers.items()
        },
        samplers={
            sampler: ComposedSampler(
                overrides=overrides[sampler],
                settings=settings.model_dump(mode="json", exclude_none=True),
                classifier=file.samplers[file.family_of(sampler)].classifier,
            )
            for sampler, settings in parsed.samplers.items()
        },
        datasets=_preparations(parsed, composer),
        metrics={
            metric: settings.model_dump(mode="json", exclude_none=True)
            for metric, settings in parsed.metrics.items()
        },
        evaluations=tuple(evaluations),
    )


@dataclass(frozen=True)
class _Parsed:
    """What a grid file names, each with its settings, and whether all of it fits together."""

    file: GridFile
    path: Path
    models: dict[str, ModelSettings]
    classifiers: dict[str, ClassifierModelSettings]
    samplers: dict[str, SamplerSettings]
    metrics: dict[str, MetricSettings]

    def check_cells(self, evaluations: Sequence[Evaluation]) -> None:
        for evaluation in evaluations:
            self._check_cell(evaluation.model, evaluation.sampler)
        if self.file.gallery not in self.samplers:
            raise UserError(
                f"{self.path}: gallery: no cell has the sampler {self.file.gallery!r}; "
                f"there are: {', '.join(self.samplers)}"
            )
        for model in self.models:
            self._check_cell(model, self.file.gallery)

    def _check_cell(self, model: str, sampler: str, where: str = "a table") -> None:
        """UserError where there is no such model, or the sampler cannot sample it."""
        if model not in self.models:
            raise UserError(
                f"{self.path}: {where} names the model {model!r}; there are: "
                f"{', '.join(self.models)}"
            )
        family = self.file.family_of(sampler)
        classifier = self.file.samplers[family].classifier
        guided = isinstance(self.samplers[sampler].guidance, ClassifierGuidance)
        if guided and classifier not in self.classifiers:
            raise UserError(
                f"{self.path}: samplers.{family}.classifier: no classifier {classifier!r}; "
                f"there are: {', '.join(self.classifiers) or 'none'}"
            )
        if classifier and not guided:
            raise UserError(
                f"{self.path}: samplers.{family}.classifier: nothing is guided by it; add "
                "guidance@sampler.guidance=classifier to the overrides"
            )
        try:
            check_fit(self.samplers[sampler], self.models[model], self.classifiers.get(classifier))
        except UserError as error:
            raise UserError(f"{self.path}: cell {model}/{sampler}: {error}") from None

    def check_figures(self) -> None:
        for part in self.file.parts_of_figures:
            if part.picture in PLOTS:
                raise UserError(f"{self.path}: {part.key}: a plot of the grid has this name")
            self._check_cell(*part.cell.split("/"), where=part.key)

    def check_tables(self) -> None:
        """UserError where an entry shows a class accuracy that its cell does not have."""
        for name, table in self.file.tables.items():
            for row, evaluations in zip(table.rows, self.file.table_evaluations(name), strict=True):
                for column, evaluation in zip(table.columns, evaluations, strict=True):
                    if evaluation and table.show_of(row, column) == "class_accuracy":
                        self._check_accuracy(evaluation, f"tables.{name}, row {row.label}")

    def _check_accuracy(self, evaluation: Evaluation, where: str) -> None:
        labelled = hasattr(self.samplers[evaluation.sampler].guidance, "label")
        classifies = self.metrics[evaluation.metric].extractor.kind == "classifier"
        if not (labelled and classifies):
            raise UserError(
                f"{self.path}: {where}: class_accuracy needs samples guided to a class and a "
                f"metric with a classifier, not {evaluation.cell} by {evaluation.metric}"
            )


def _preparations(parsed: _Parsed, composer: Composer) -> dict[str, dict[str, Any]]:
    """What preparing each dataset of a grid depends on.

    Raises UserError where a model changes that: the datasets of all models are prepared once, from
    configs/dataset.
    """
    preparations = {}
    for key, trained in (("models", parsed.models), ("classifiers", parsed.classifiers)):
        for name, settings in trained.items():
            where, dataset = f"{parsed.path}: {key}.{name}", settings.dataset
            preparation = composer.dataset(dataset.name, where).preparation()
            if dataset.preparation() != preparation:
                raise UserError(
                    f"{where}: its dataset is not prepared as configs/dataset/{dataset.name}.yaml "
                    "says; make a config of its own for it"
                )
            preparations[dataset.name] = preparation
    guidances = [settings.guidance for settings in parsed.samplers.values()]
    if any(isinstance(getattr(g, "mask", None), DigitsMask) for g in guidances):
        preparations["mnist"] = composer.dataset("mnist", str(parsed.path)).preparation()
    return preparations
