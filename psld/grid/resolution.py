"""Resolve a grid file: compose all records with Hydra, and check that they fit together."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any

from psld.config.compose import Composer
from psld.config.reads import CellRead, finding
from psld.config.settings import groups_of, parse, quoted, updated
from psld.data.settings import PrepareSettings
from psld.evaluation.results import NUMBER_KINDS
from psld.evaluation.settings import (
    Measurement,
    ReferenceSettings,
    TrainExtractorSettings,
    decoder_for,
)
from psld.grid.cells import Cell, Grid, start_name
from psld.grid.figures import PLOTS
from psld.grid.members import Origin
from psld.grid.names import check_name
from psld.grid.reading import grid_path, read_grid_file
from psld.grid.records import (
    DatasetRecord,
    FeaturesRecord,
    GuideRecord,
    ModelRecord,
    SamplerRecord,
    StartRecord,
)
from psld.grid.rows import entries_in
from psld.grid.schema import GridFile
from psld.metrics.settings import MetricSettings
from psld.models.settings import StartSettings
from psld.sampling.named import named_in
from psld.sampling.settings import SamplingRun, check_fit
from psld.training.init import check_alike
from psld.training.settings import TrainGuideSettings, TrainSettings
from psld.utils.errors import UserError, locating
from psld.utils.files import digest_of


def resolve(name: str, file: GridFile, path: Path) -> Grid:
    """Resolve all models, guides, samplers, metrics and datasets that a grid file names.

    Raises UserError, which names the file and the key, if a record cannot be composed, or if a cell
    combines a model with a sampler or a metric that does not fit the model.
    """
    return _Resolver(name, file, path).grid()


def grid_settings(folder: str, grid: str, name: str) -> dict[str, str]:
    """Return the settings of a training that follow from its grid and its name in the grid."""
    return {"name": name, "grid_name": grid, "output": f"{folder}/{grid}/{name}"}


@dataclass(frozen=True)
class _Resolver:
    name: str
    file: GridFile
    path: Path
    composer: Composer = field(default_factory=Composer)
    known: dict[str, ModelRecord] = field(default_factory=dict)
    begun: list[str] = field(default_factory=list)
    """The stack of models and guides that are being resolved, innermost last."""
    cells_read: dict[str, SamplerRecord] = field(default_factory=dict)
    """The samplers of the cells that trainings read. The keys are the folders of the cells."""

    def grid(self) -> Grid:
        named = self.models, self.guides, self.samplers
        datasets, metrics = self.datasets(), self.metrics
        others = metrics, datasets, self.features(), self.starts()
        grid = Grid(self.name, self.file, *named, *others)
        if taken := PLOTS.keys() & self.file.figures:
            raise UserError(
                f"{self.path}: figures.{min(taken)}: a plot of the grid has this name; rename it"
            )
        self._check_cells(grid)
        self._check_tables(grid)
        return grid

    @cached_property
    def models(self) -> dict[str, ModelRecord]:
        models = {name: self.model(name) for name in self.file.trainings}
        by_folder = {model.folder: model for model in models.values()}
        for name, model in models.items():
            init = model.settings.init
            if init and init.model.name in by_folder:  # Models of other grids are not checked here.
                with locating(f"{self.path}: models.{name}"):
                    check_alike(model.settings, by_folder[init.model.name].settings)
        shared = {n: models[each.weights] for n, each in models.items() if each.weights}
        return models | {
            name: self._with_shared_weights(models[name], shared[name]) for name in shared
        }

    def model(self, name: str) -> ModelRecord:
        """Return the record of a model. Models that its training reads are resolved first.

        Raises UserError if models refer to each other in a circle.
        """
        if model := self.known.get(name):
            return model
        entry = self.file.trainings[name]
        where, grid = f"{self.path}: models.{name}", entry.of or self.name
        with self._reading(where, name, entry.of):
            trained = entry.average_of and self.model(entry.average_of).manifest
            content = self.composer.content("train", self.file.overrides(name), where)
            averages = {
                each: other.average
                for each, other in self.file.trainings.items()
                if other.average_of == name and not entry.of
            }
            content = content | grid_settings("models", grid, name) | {"averages": averages}
            settings = parse(TrainSettings, content, where)
        with locating(f"{where}: training.objective.cell"):
            for read in groups_of(CellRead, settings.training.objective):
                settings.training.objective.check_cell(self.cells_read[read.name].settings)
        origin = entry.model_dump(include={*Origin.model_fields})
        self.known[name] = ModelRecord(settings=settings, trained_with=trained, **origin)
        return self.known[name]

    @contextmanager
    def _reading(self, where: str, name: str, of: str | None = None) -> Iterator[None]:
        """In this context, resolve the models and cells that a training reads.

        Raises UserError for a circular reference.
        """
        if name in self.begun:
            circle = " → ".join([*self.begun[self.begun.index(name) :], name])
            raise UserError(f"{where}: circular reference: {circle}")
        self.begun.append(name)
        with finding(partial(self._find, where, of)):
            yield
        self.begun.pop()

    def _find(self, where: str, of: str | None, noun: str, content: dict[str, Any]) -> dict:
        """Return a serialized `Read` with its digest and files.

        The model or cell is searched in this grid, or in the grid `of` if it is given.
        """
        # With several training seeds, a training reads models and cells that have the same seed.
        seeds = {each: seed for names in self.file.names.values() for seed, each in names.items()}
        name, grid = self.file.with_seed(content["name"], seeds.get(self.begun[-1])), self
        if of:
            grid = _Resolver(of, read_grid_file(grid_path(of)), grid_path(of))
        if noun == "cell" and (cell := grid.measured_cell(name)):
            self.cells_read[cell.folder] = cell.sampler
            # `cell.digest` does not cover the number of shards, so this number is added here.
            digest = digest_of([cell.digest, cell.shards])
            return content | {"name": cell.folder, "digest": digest, "files": cell.records}
        if noun == "model" and (entry := grid.file.trainings.get(name)):
            source = grid.model(entry.weights or name)
            found = {"digest": source.digest, "files": (source.manifest,)}
            return content | {"name": source.folder} | found
        known = ", ".join(grid.file.trainings) if noun == "model" else "the cells of its tables"
        raise UserError(f"{where}: no {noun} {name!r} in {grid.path}; there are: {known}")

    def measured_cell(self, name: str) -> Cell | None:
        """Return the cell MODEL/SAMPLER-BUDGET with the seed of the grid.

        None if no table contains the cell.
        """
        model, _, sampler = name.partition("/")
        key = model, sampler, self.file.seed
        shown = [each for each in self.file.cells_shown if key in self.file.cell_keys(each)]
        if not shown:
            return None
        record = self._sampler(sampler, *self.file.budgets[sampler])
        guide = self.guide(record.guide) if record.guide else None
        metrics = tuple(
            Measurement(metric=self._metric(s.metric), samples=s.samples) for s in shown
        )
        networks = self.model(model), record, guide
        return Cell(self.name, *networks, None, self.file.seed, self.file, metrics, {})

    def _with_shared_weights(self, model: ModelRecord, trained: ModelRecord) -> ModelRecord:
        """Return `model` with its folder set to the folder of `trained`, whose weights it uses.

        Raises UserError if `trained` is not a denoiser, or if the two models differ in more than
        the process.
        """
        where = f"{self.path}: models.{model.name}.weights"
        if not trained.settings.serves_every_process:
            raise UserError(
                f"{where}: {trained.name} is trained for one process; only the weights of a "
                "denoiser (training.objective=denoiser) can be shared"
            )
        if model.digest != trained.digest:
            raise UserError(
                f"{where}: the overrides change more than the process, so the model needs a "
                "separate training; leave out weights"
            )
        settings = model.settings.model_copy(update={"output": trained.folder})
        return model.model_copy(update={"settings": settings})

    @cached_property
    def guides(self) -> dict[str, GuideRecord]:
        return {name: self.guide(name) for name in self.file.guides}

    def guide(self, name: str) -> GuideRecord:
        """Return the record of a guide. Models that its training reads are resolved first.

        Raises UserError for a circular reference.
        """
        where, entry = f"{self.path}: guides.{name}", self.file.guides[name]
        with self._reading(where, f"guides.{name}"):
            content = self.composer.content("train_guide", entry.overrides, where)
            own = grid_settings("guides", self.name, name)
            settings = parse(TrainGuideSettings, content | own, where)
        return GuideRecord(settings=settings, checkpoint=entry.checkpoint)

    @cached_property
    def samplers(self) -> dict[str, SamplerRecord]:
        """The samplers, keyed by FAMILY-BUDGET. BUDGET is the value of one setting of the
        sampler."""
        return {name: self._sampler(name, *each) for name, each in self.file.budgets.items()}

    def _sampler(self, name: str, family: str, budget: str) -> SamplerRecord:
        where, entry = f"{self.path}: sampler {name}", self.file.samplers[family]
        content = self.composer.content("sample", [*entry.overrides, "model=x", "output=x"], where)
        content = updated(content, [entry.budget_word(budget)])
        sampler = named_in(content, where).sampler
        run = {key: content[key] for key in SamplingRun.model_fields}
        guided = sampler.guidance.needs_guide
        if guided and entry.guide not in self.file.guides:
            raise UserError(
                f"{self.path}: samplers.{family}.guide: no guide {entry.guide!r}; "
                f"there are: {', '.join(self.file.guides) or 'none'}"
            )
        if entry.guide and not guided:
            raise UserError(
                f"{self.path}: samplers.{family}.guide: the sampler uses no guide; add "
                "guidance@sampler.guidance=classifier to the overrides, or leave out guide"
            )
        return SamplerRecord(
            family=family,
            budget=budget,
            settings=sampler,
            run=parse(SamplingRun, run, where),
            guide=entry.guide,
        )

    @cached_property
    def metrics(self) -> dict[str, MetricSettings]:
        names = dict.fromkeys(shown.metric for shown in self.file.cells_shown)
        return {name: self._metric(name) for name in names}

    def _metric(self, name: str) -> MetricSettings:
        metric = self._reference("digits", name).metric
        if metric.name != name:
            raise UserError(
                f"{self.path}: metric {name}: configs/metric/{name}.yaml: name is {metric.name}; "
                f"set name: {name}"
            )
        if metric.features != name:
            both = (self._reference("digits", each) for each in (metric.features, name))
            records = (FeaturesRecord(reference=each, extractor=None) for each in both)
            shared, own = (each.reference_job.digest for each in records)
            if shared != own:
                raise UserError(
                    f"{self.path}: metric {name}: configs/metric/{name}.yaml: features: "
                    f"{metric.features} has a different extractor; set features: {name}"
                )
        return metric

    def _reference(self, dataset: str, metric: str) -> ReferenceSettings:
        where, words = f"{self.path}: metric {metric}", [f"dataset={dataset}", f"metric={metric}"]
        return parse(ReferenceSettings, self.composer.content("reference", words, where), where)

    def features(self) -> dict[str, FeaturesRecord]:
        pairs = dict.fromkeys(
            (self.models[model].dataset, self.metrics[shown.metric].features)
            for shown in self.file.cells_shown
            for model in self.file.names[shown.model].values()
        )
        features = {}
        for dataset, name in pairs:
            reference, extractor = self._reference(dataset, name), None
            if reference.metric.extractor.trains:
                where = f"{self.path}: metric {name}"
                words = [f"dataset={dataset}", f"metric={name}"]
                content = self.composer.content("train_extractor", words, where)
                extractor = parse(TrainExtractorSettings, content, where)
            else:
                reference = reference.model_copy(update={"extractor": None})
            features[f"{dataset}/{name}"] = FeaturesRecord(reference=reference, extractor=extractor)
        return features

    def starts(self) -> dict[str, StartRecord]:
        """Return the initial distributions that the samplers need for the models of this grid."""
        starts = {}
        for model, sampler in product(self.models.values(), self.samplers.values()):
            name = start_name(dataset := model.settings.dataset, sampler.settings)
            if name and name not in starts:
                where = f"{self.path}: start {name}"
                words = [f"dataset={dataset.name}", f"data={quoted(model.settings.data)}"]
                asked = {"dataset": dataset, "classes": sampler.settings.asks_for_classes}
                content = self.composer.content("start", words, where) | asked
                starts[name] = StartRecord(settings=parse(StartSettings, content, where))
        return starts

    def datasets(self) -> dict[str, DatasetRecord]:
        """Return the datasets of all models, guides and masks with the settings in configs/dataset.

        Raises UserError if a model or guide overrides the preparation of its dataset.
        """
        datasets = {}
        for key, trained in (("models", self.models), ("guides", self.guides)):
            for name, record in trained.items():
                own, where = record.settings.dataset, f"{self.path}: {key}.{name}"
                dataset = datasets[own.name] = self._dataset(own.name, where)
                if own.preparation() != dataset.settings.dataset.preparation():
                    raise UserError(
                        f"{where}: the dataset settings differ from "
                        f"configs/dataset/{own.name}.yaml; write a separate config for them"
                    )
        for name, record in [*datasets.items()]:
            if encoded := record.settings.dataset.source.encoded:
                where = f"{self.path}: dataset {name}: source.dataset"
                datasets[encoded] = self._dataset(encoded, where)
        if any("mnist" in each.settings.guidance.files for each in self.samplers.values()):
            datasets["mnist"] = self._dataset("mnist", str(self.path))
        return datasets

    def _dataset(self, name: str, where: str) -> DatasetRecord:
        with locating(where, ValueError):
            check_name("dataset", name)
        content = self.composer.content("prepare", [f"dataset={name}"], where)
        return DatasetRecord(settings=parse(PrepareSettings, content, where))

    def _check_cells(self, grid: Grid) -> None:
        for cell in grid.cells.values():
            guide = cell.guide and cell.guide.settings
            with locating(f"{self.path}: cell {cell.name}"):
                check_fit(cell.sampler.settings, cell.model.settings, guide)
            dataset = cell.model.settings.dataset
            for metric in (measurement.metric for measurement in cell.measurements):
                where = f"{self.path}: cell {cell.name}: {metric.name}"
                with locating(f"{self.path}: cell {cell.name}"):
                    decoder_for(dataset, metric)
                if metric.extractor.classifies and dataset.num_classes < 2:
                    lacks = f"dataset {dataset.name} has no labels; use metric: fid"
                    raise UserError(f"{where} needs labels for its classifier, but {lacks}")
                if metric.needs_test and not dataset.source.has_test:
                    lacks = f"dataset {dataset.name} has none; use dataset.source.test_fraction=0.1"
                    raise UserError(f"{where} compares with test images, but {lacks}")

    def _check_tables(self, grid: Grid) -> None:
        for name in self.file.tables:
            for entry in filter(lambda entry: entry.cells, entries_in(grid, name)):
                sampler, metric = entry.cell.sampler.settings, entry.measurement.metric
                fits = sampler.asks_for_classes and metric.extractor.classifies
                if NUMBER_KINDS[entry.show].of_classes and not fits:
                    raise UserError(
                        f"{self.path}: tables.{name}, row {entry.row.label}: {entry.show} needs "
                        "class-conditional samples and a metric with a classifier, not "
                        f"{entry.cell.name} with {metric.name}"
                    )
