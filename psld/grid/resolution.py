"""Resolve a grid file: compose everything that it names, and check that the parts fit together."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psld.config.compose import compose_content
from psld.diffusion.samplers import ClassifierGuidance, DigitsMask, SamplerSettings
from psld.grid.composing import (
    Compose,
    compose_dataset,
    compose_guide,
    compose_likelihood,
    compose_metric,
    compose_model,
    compose_sampler,
)
from psld.grid.figures import PLOTS
from psld.grid.places import Evaluation
from psld.grid.resolved import ComposedSampler, ComposedTraining, Grid
from psld.grid.schema import GridFile, TrainedEntry
from psld.metrics.settings import MetricSettings
from psld.sampling.settings import check_fit
from psld.training.settings import GuideModelSettings, ModelSettings, TrainedSettings
from psld.utils.errors import UserError


def compose_grid(name: str, file: GridFile, path: Path, compose: Compose = compose_content) -> Grid:
    """Resolve everything that a grid file names.

    Raises UserError, with file and key, if something does not compose, or if a table, a figure or
    the gallery pairs a sampler with a model that it cannot sample.
    """
    parsed = _parse(file, path, compose)
    datasets = _preparations(parsed, compose)
    parsed.check_cells()
    parsed.check_figures()
    parsed.check_tables()
    return Grid(
        name=name,
        file=file,
        models={
            model: _composed(file.trainings[model], file.overrides_of_model(model), settings)
            for model, settings in parsed.models.items()
        },
        guides={
            guide: _composed(file.guides[guide], file.guides[guide].overrides, settings)
            for guide, settings in parsed.guides.items()
        },
        samplers={
            sampler: ComposedSampler(
                overrides=file.overrides_of(sampler),
                settings=settings.model_dump(mode="json", exclude_none=True),
                guide=file.samplers[file.family_of(sampler)].guide,
            )
            for sampler, settings in parsed.samplers.items()
        },
        datasets=datasets,
        metrics={
            metric: settings.model_dump(mode="json", exclude_none=True)
            for metric, settings in parsed.metrics.items()
        },
        likelihood=compose_likelihood(file.likelihood, f"{path}: likelihood", compose)
        if file.likelihood or file.likelihood_models()
        else None,
    )


def _composed(
    entry: TrainedEntry, overrides: tuple[str, ...], settings: TrainedSettings
) -> ComposedTraining:
    return ComposedTraining(
        overrides=overrides,
        checkpoint=entry.checkpoint,
        dataset=settings.dataset.name,
        settings=settings.identity(),
        of=entry.of,
    )


@dataclass(frozen=True)
class _Parsed:
    """The settings of everything that a grid file names, with checks that they fit together."""

    file: GridFile
    path: Path
    evaluations: list[Evaluation]
    """The evaluations of all tables with all their seeds."""
    models: dict[str, ModelSettings]
    guides: dict[str, GuideModelSettings]
    samplers: dict[str, SamplerSettings]
    metrics: dict[str, MetricSettings]

    def check_cells(self) -> None:
        for evaluation in self.evaluations:
            self._check_cell(evaluation.model, evaluation.sampler)
            dataset = self.models[evaluation.model].dataset
            trained = self.metrics[evaluation.metric].extractor.kind == "classifier"
            if trained and dataset.num_classes < 2:
                raise UserError(
                    f"{self.path}: cell {evaluation.cell}: {evaluation.metric} needs labels for "
                    f"its classifier, and dataset {dataset.name} has none; use metric: fid"
                )
        for model in self.file.likelihood_models():
            self._check_model(model)
        if self.file.gallery not in self.samplers:
            raise UserError(
                f"{self.path}: gallery: no cell has the sampler {self.file.gallery!r}; "
                f"there are: {', '.join(self.samplers)}"
            )
        for model in self.models:
            self._check_cell(model, self.file.gallery)

    def _check_model(self, model: str, where: str = "a table") -> None:
        if model not in self.models:
            raise UserError(
                f"{self.path}: {where} names the model {model!r}; there are: "
                f"{', '.join(self.models)}"
            )

    def _check_cell(self, model: str, sampler: str, where: str = "a table") -> None:
        """Raise UserError if there is no such model, or if the sampler cannot sample it."""
        self._check_model(model, where)
        family = self.file.family_of(sampler)
        guide = self.file.samplers[family].guide
        guided = isinstance(self.samplers[sampler].guidance, ClassifierGuidance)
        if guided and guide not in self.guides:
            raise UserError(
                f"{self.path}: samplers.{family}.guide: no guide {guide!r}; "
                f"there are: {', '.join(self.guides) or 'none'}"
            )
        if guide and not guided:
            raise UserError(
                f"{self.path}: samplers.{family}.guide: nothing is guided by it; add "
                "guidance@sampler.guidance=classifier to the overrides"
            )
        try:
            check_fit(self.samplers[sampler], self.models[model], self.guides.get(guide))
        except UserError as error:
            raise UserError(f"{self.path}: cell {model}/{sampler}: {error}") from None

    def check_figures(self) -> None:
        for part in self.file.parts_of_figures:
            if part.picture in PLOTS:
                raise UserError(f"{self.path}: {part.key}: a plot of the grid has this name")
            self._check_cell(*part.cell.split("/"), where=part.key)

    def check_tables(self) -> None:
        """Raise UserError if an entry shows a class accuracy that its cell does not have."""
        for name in self.file.tables:
            for place in self.file.places_in(name):
                shown = place.evaluation
                if shown is None or place.show != "class_accuracy":
                    continue
                labelled = hasattr(self.samplers[shown.sampler].guidance, "label")
                if not (labelled and self.metrics[shown.metric].extractor.kind == "classifier"):
                    raise UserError(
                        f"{self.path}: tables.{name}, row {place.row.label}: class_accuracy needs "
                        "samples guided to a class and a metric with a classifier, not "
                        f"{shown.cell} by {shown.metric}"
                    )


def _parse(file: GridFile, path: Path, compose: Compose) -> _Parsed:
    """Compose the settings of everything that a grid file names."""
    evaluations = [r for e in file.evaluations for r in file.replicates(e)]
    figures = [cell.partition("/")[2] for cell in file.pictures.values()]
    return _Parsed(
        file,
        path,
        evaluations,
        models={
            model: compose_model(file.overrides_of_model(model), f"{path}: models.{model}", compose)
            for model in file.trainings
        },
        guides={
            guide: compose_guide(own.overrides, f"{path}: guides.{guide}", compose)
            for guide, own in file.guides.items()
        },
        samplers={
            sampler: compose_sampler(
                file.overrides_of(sampler), f"{path}: sampler {sampler}", compose
            )
            for sampler in dict.fromkeys([*(e.sampler for e in evaluations), *figures])
        },
        metrics={
            metric: compose_metric(metric, f"{path}: metric {metric}", compose)
            for metric in dict.fromkeys(evaluation.metric for evaluation in evaluations)
        },
    )


def _preparations(parsed: _Parsed, compose: Compose) -> dict[str, dict[str, Any]]:
    """Return the settings that decide the preparation of each dataset of a grid.

    Raises UserError if a model or guide changes them, because each dataset is prepared once, from
    configs/dataset.
    """
    preparations = {}
    for key, trained in (("models", parsed.models), ("guides", parsed.guides)):
        for name, settings in trained.items():
            where, dataset = f"{parsed.path}: {key}.{name}", settings.dataset
            preparation = compose_dataset(dataset.name, where, compose).preparation()
            if dataset.preparation() != preparation:
                raise UserError(
                    f"{where}: its dataset is not prepared as configs/dataset/{dataset.name}.yaml "
                    "says; make a config of its own for it"
                )
            preparations[dataset.name] = preparation
    guidances = [settings.guidance for settings in parsed.samplers.values()]
    if any(isinstance(getattr(g, "mask", None), DigitsMask) for g in guidances):
        preparations["mnist"] = compose_dataset("mnist", str(parsed.path), compose).preparation()
    return preparations
