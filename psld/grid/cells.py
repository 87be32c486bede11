"""Resolved grids and their cells."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePath
from typing import Any

from psld.config.reads import Read
from psld.config.settings import in_hydra, keyed_groups, parse, quoted
from psld.data.settings import DatasetSettings
from psld.diffusion.samplers import SamplerSettings
from psld.evaluation.settings import EvaluateSettings, Measurement, decoder_for
from psld.grid.names import seeded
from psld.grid.records import (
    DatasetRecord,
    FeaturesRecord,
    GuideRecord,
    Job,
    ModelRecord,
    SamplerRecord,
    StartRecord,
    TrainedRecord,
    dataset_digest,
)
from psld.grid.schema import GridFile
from psld.grid.tables import Shown
from psld.metrics.settings import MetricSettings
from psld.models.settings import start_file
from psld.sampling.named import as_words, flat
from psld.sampling.settings import SampleSettings, images_digest, record_path, shards_needed
from psld.utils.errors import UserError
from psld.utils.files import digest_of


@dataclass(frozen=True, eq=False)
class Cell:
    """A cell of a grid: a model, a sampler with its budget, a seed, and the measurements."""

    grid: str
    model: ModelRecord
    sampler: SamplerRecord
    guide: GuideRecord | None
    start: StartRecord | None
    """The fitted initial distribution (`start`) of the sampler; None for the prior."""
    seed: int
    options: GridFile
    measurements: tuple[Measurement, ...]
    features: dict[str, FeaturesRecord]
    """The reference features for the measurements. The keys are values of a metric's setting
    `features`. This setting is equal for all metrics that use the same features."""

    @cached_property
    def name(self) -> str:
        """MODEL/SAMPLER-BUDGET, followed by the seed if it differs from the seed of the grid."""
        sampler = f"{self.sampler.family}-{self.sampler.budget}"
        return f"{self.model.name}/{seeded(sampler, self.seed, self.options.seed)}"

    @property
    def in_words(self) -> tuple[str, str]:
        """Two labels for figures: the label of the model, and the label of the sampler with its
        budget."""
        label = self.options.label
        return label(self.model.name), f"{label(self.sampler.family)}, {self.budget_in_words}"

    @property
    def budget_in_words(self) -> str:
        """The budget of the sampler with its unit, such as `40 steps`."""
        key, budget = self.options.samplers[self.sampler.family].budget, self.sampler.budget
        if key == "sampler.steps":
            unit = {"0": "steps: the start alone", "1": "step"}.get(budget, "steps")
            return f"{budget} {unit}"
        return f"{key.rpartition('.')[2]} {budget}"

    @property
    def folder(self) -> str:
        return f"samples/{self.grid}/{self.name}"

    @property
    def result(self) -> str:
        return f"results/cells/{self.grid}/{self.name}.json"

    @property
    def kept(self) -> str:
        """The file with the features of the samples, or with sums over the features, from which the
        results are computed."""
        return f"results/cells/{self.grid}/{self.name}.safetensors"

    @cached_property
    def digest(self) -> str:
        """The digest of all settings that determine the sampled images."""
        guide, process = self.guide and self.guide.digest, self.model.settings.sampled_as()
        images = self.sampler.settings, self.seed, self.options.shard_size
        return images_digest(self.model.digest, guide, *images, process)

    @cached_property
    def evaluation_digest(self) -> str:
        """The digest of all settings that determine the results."""
        return digest_of([self.record_of(each) for each in self.measurements])

    def record_of(self, measurement: Measurement) -> str:
        """Return the digest of everything that determines the result of a measurement."""
        decode = decoder_for(self.model.settings.dataset, measurement.metric)
        return measurement.digest(self.digest, decode)

    @property
    def shards(self) -> int:
        """The number of shards that the measurements need; 1 for a cell without measurements."""
        size = self.options.shard_size
        return max((shards_needed(m.samples, size) for m in self.measurements), default=1)

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The first and last shard of each sampling job."""
        size, shards = self.options.shards_per_job, self.shards
        return [(first, min(first + size, shards) - 1) for first in range(0, shards, size)]

    @property
    def records(self) -> list[str]:
        """The record files of the shards, one file for each sampling job."""
        return [str(record_path(self.folder, *shards)) for shards in self.ranges]

    @property
    def datasets(self) -> dict[str, str]:
        """The prepared datasets that the sampler reads: `data` contains the images to inpaint, and
        `mnist` contains digits for masks."""
        paths = {"data": self.model.settings.data, "mnist": "data/mnist.h5"}
        return {key: paths[key] for key in self.sampler.settings.guidance.files if key in paths}

    @property
    def networks(self) -> tuple[TrainedRecord, ...]:
        return (self.model, self.guide) if self.guide else (self.model,)

    @property
    def _uses(self) -> tuple[TrainedRecord | StartRecord, ...]:
        return (*self.networks, self.start) if self.start else self.networks

    @property
    def inputs(self) -> list[str]:
        """The files besides the model that determine the sampled images: the manifest of the guide,
        the initial distribution, and the digests of datasets."""
        guide = [self.guide.manifest] if self.guide else []
        start = [self.start.file] if self.start else []
        return [*guide, *start, *map(dataset_digest, self.datasets.values())]

    @property
    def references(self) -> list[str]:
        return [features.manifest for features in self.features.values()]

    @property
    def _images(self) -> dict[str, Any]:
        return {
            "model": self.model.folder,
            "process": self.model.settings.sampled_as(),
            "sampler": self.sampler.settings,
            "start": self.start and self.start.file,
            "guide": self.guide and self.guide.folder,
            **self.datasets,
            "shard_size": self.options.shard_size,
            "seed": self.seed,
        }

    @property
    def words(self) -> list[str]:
        """The overrides with which `psld sample` draws the images; `output` must be added."""
        options, process = self.options, self.model.settings.sampled_as()
        family = options.samplers[self.sampler.family]
        words = [*family.overrides, family.budget_word(self.sampler.budget)]
        if process:
            settings = process.model_dump(mode="json", exclude={"kind"})
            words += [f"process={process.kind}", *as_words("process", flat(settings))]
        places = {"model": self.model.folder, "guide": self.guide and self.guide.folder}
        words += [f"{key}={quoted(path)}" for key, path in (places | self.datasets).items() if path]
        sizes = [f"shard_size={options.shard_size}", f"batch_size={options.batch_size}"]
        return [*words, *sizes, f"shards={self.shards}", f"seed={self.seed}"]

    @property
    def sample_job(self) -> Job[SampleSettings]:
        content = self._images | self.sampler.run.model_dump()
        content |= {"batch_size": self.options.batch_size, "first": 0, "shards": self.shards}
        content |= {"output": self.folder, "folder": self.folder}
        settings = parse(SampleSettings, content, self.name)
        return Job(settings, self.digest, self._uses)

    @property
    def evaluate_job(self) -> Job[EvaluateSettings]:
        """The job that evaluates the samples. Raises UserError for a cell without measurements."""
        if not self.measurements:
            raise UserError(
                f"cell={self.grid}/{self.name}: no table shows this cell, so it has no metric; "
                f"psld plan grid_name={self.grid} list=cells lists the cells with metrics"
            )
        content = self._images | {
            "measurements": self.measurements,
            "decode": self.model.settings.dataset.decode,
            "features": {name: features.folders for name, features in self.features.items()},
            "shards": self.folder,
            "output": self.result,
            "device": self.sampler.run.device,
        }
        settings = parse(EvaluateSettings, content, self.name)
        return Job(settings, self.evaluation_digest, self._uses)


def start_name(dataset: DatasetSettings, sampler: SamplerSettings) -> str | None:
    """Return the name of the fitted initial distribution (`start`) that a sampler uses.

    Returns None if the sampler starts from the prior.
    """
    if not sampler.starts_from_data:
        return None
    return PurePath(start_file(dataset, sampler.asks_for_classes)).stem


@dataclass(frozen=True, eq=False)
class Grid:
    """A resolved grid: the grid file and the records of all models, samplers, metrics and so on."""

    name: str
    file: GridFile
    models: dict[str, ModelRecord]
    guides: dict[str, GuideRecord]
    samplers: dict[str, SamplerRecord]
    """The samplers; the keys are FAMILY-BUDGET."""
    metrics: dict[str, MetricSettings]
    datasets: dict[str, DatasetRecord]
    features: dict[str, FeaturesRecord]
    """The reference features; the keys are DATASET/FEATURES."""
    starts: dict[str, StartRecord] = field(default_factory=dict)
    """The initial distributions; the keys are DATASET[-flip][-classes]."""

    @cached_property
    def cells(self) -> dict[str, Cell]:
        """All cells that are sampled, keyed by name. Cells of tables come before other cells."""
        return {cell.name: cell for cell in self._cells_by_key.values()}

    @property
    def measured_cells(self) -> list[Cell]:
        return [cell for cell in self.cells.values() if cell.measurements]

    # The paths from `table` and `figure` have no file extension.

    @property
    def results(self) -> list[str]:
        return sorted(cell.result for cell in self.measured_cells)

    @property
    def page(self) -> str:
        return f"results/{self.name}.html"

    @property
    def certificate(self) -> str:
        return f"results/certificates/{self.name}.zip"

    def table(self, name: str) -> str:
        return f"results/tables/{self.name}/{name}"

    def figure(self, name: str) -> str:
        return f"results/figures/{self.name}/{name}"

    def table_files(self, name: str) -> list[str]:
        return [f"{self.table(name)}.{ending}" for ending in ("md", "csv", "tex", "html")]

    def figure_files(self, *names: str) -> list[str]:
        return [f"{self.figure(name)}.{ending}" for name in names for ending in ("png", "svg")]

    def replicates(self, shown: Shown) -> tuple[Cell, ...]:
        """Return the cells of a table entry, one for each pair of training and sampling seed."""
        return tuple(self._cells_by_key[key] for key in self.file.cell_keys(shown))

    def measurement(self, shown: Shown) -> Measurement:
        return Measurement(metric=self.metrics[shown.metric], samples=shown.samples)

    def words(self, key: str, name: str) -> list[str]:
        """Return the overrides from which a command composes the settings of a record.

        Args:
            key: `model`, `guide` or `cell`.
            name: the name of the record in this grid.
        """
        if key == "cell":
            return self.cells[name].words
        if key == "model":
            overrides, trained = self.file.overrides(name), self.models[name]
        else:
            overrides, trained = self.file.guides[name].overrides, self.guides[name]
        found = keyed_groups(Read, trained.settings)
        reads = [f"{key}={in_hydra({k: v for k, v in read if v})}" for key, read in found]
        return [*overrides, *reads, f"name={name}", f"grid_name={trained.settings.grid_name}"]

    def gallery(self, model: str) -> Cell:
        return self.cells[f"{model}/{self.file.models[model].gallery or self.file.gallery}"]

    @cached_property
    def _cells_by_key(self) -> dict[tuple[str, str, int], Cell]:
        measured: dict[tuple[str, str, int], dict[Measurement, None]] = {}
        for entry in self.file.cells_shown:
            for key in self.file.cell_keys(entry):
                measured.setdefault(key, {})[self.measurement(entry)] = None
        models = self.file.models.items()
        galleries = (f"{name}/{model.gallery or self.file.gallery}" for name, model in models)
        for name in (*galleries, *(cell for _, cell in self.file.figure_cells)):
            model, sampler = name.split("/")
            measured.setdefault((model, sampler, self.file.seed), {})
        cells = {}
        for (model, sampler, seed), measurements in measured.items():
            guide, dataset = self.samplers[sampler].guide, self.models[model].dataset
            names = dict.fromkeys(m.metric.features for m in measurements)
            settings = self.models[model].settings.dataset, self.samplers[sampler].settings
            cells[model, sampler, seed] = Cell(
                grid=self.name,
                model=self.models[model],
                sampler=self.samplers[sampler],
                guide=self.guides[guide] if guide else None,
                start=self.starts.get(start_name(*settings) or ""),
                seed=seed,
                options=self.file,
                measurements=tuple(measurements),
                features={name: self.features[f"{dataset}/{name}"] for name in names},
            )
        return cells
