"""A grid with everything resolved: models, guides, samplers, cells. Imports no torch."""

from collections.abc import Iterable
from functools import cached_property
from typing import Any

from psld.config.settings import Settings, parse
from psld.grid import paths
from psld.grid.places import Evaluation
from psld.grid.schema import GridFile
from psld.metrics.settings import LikelihoodSettings, MetricSettings
from psld.sampling.settings import shards_needed


class ComposedTraining(Settings):
    """A model or a guide with everything resolved."""

    overrides: tuple[str, ...]
    checkpoint: str | None
    dataset: str
    settings: dict[str, Any]
    """The settings that decide the weights."""
    of: str | None = None
    """The grid that trains it, if it is another one."""

    @property
    def images(self) -> str:
        """The path of its prepared dataset."""
        return paths.dataset(self.dataset)

    @property
    def digest(self) -> str:
        """The path of that dataset's digest."""
        return paths.dataset_digest(self.dataset)


class ComposedSampler(Settings):
    """A sampler with everything resolved."""

    overrides: tuple[str, ...]
    settings: dict[str, Any]
    guide: str | None
    """Name of its guide in the grid."""

    @property
    def guidance(self) -> str:
        """The kind of its guidance."""
        return self.settings["guidance"]["kind"]

    @property
    def mask(self) -> dict[str, Any]:
        """The settings of the mask for inpainting; empty if it does not inpaint."""
        return self.settings["guidance"].get("mask", {})


class Grid(Settings):
    """A grid with everything resolved."""

    name: str
    file: GridFile
    models: dict[str, ComposedTraining]
    guides: dict[str, ComposedTraining]
    samplers: dict[str, ComposedSampler]
    datasets: dict[str, dict[str, Any]]
    """The settings that decide the preparation of each dataset."""
    metrics: dict[str, dict[str, Any]]
    """Settings of each metric."""
    likelihood: LikelihoodSettings | None
    """The settings of every likelihood that a table shows; None if none does."""

    def metric(self, name: str) -> MetricSettings:
        """The settings of a metric."""
        return parse(MetricSettings, self.metrics[name], where=name)

    def model_folder(self, model: str) -> str:
        """The folder of a model, under the grid that trains it."""
        return paths.model_folder(self.models[model].of or self.name, model)

    @cached_property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """The evaluations of all tables with all their seeds, each once."""
        return tuple(r for e in self.file.evaluations for r in self.file.replicates(e))

    @cached_property
    def evaluations_by_cell(self) -> dict[str, list[Evaluation]]:
        """The evaluations of each cell, MODEL/SAMPLER, in the order of the tables."""
        by_cell: dict[str, list[Evaluation]] = {}
        for evaluation in self.evaluations:
            by_cell.setdefault(evaluation.cell, []).append(evaluation)
        return by_cell

    @property
    def cells(self) -> list[str]:
        """Names of all cells that tables show."""
        return list(self.evaluations_by_cell)

    @cached_property
    def shards(self) -> dict[str, int]:
        """The number of shards of each cell: those its evaluations need, or one if only shown."""
        shown = [f"{model}/{self.file.gallery}" for model in self.file.models]
        shards = dict.fromkeys([*shown, *self.file.pictures.values()], 1)
        return shards | shards_of_cells(self.evaluations, self.file.shard_size)

    def ranges_of(self, cell: str) -> list[tuple[int, int]]:
        """Return the first and the last shard of each job that samples a cell."""
        size, total = self.file.shards_per_job, self.shards[cell]
        return [(first, min(first + size, total) - 1) for first in range(0, total, size)]


def shards_of_cells(evaluations: Iterable[Evaluation], shard_size: int) -> dict[str, int]:
    """Return the number of shards of each cell; the evaluations of a cell share its shards."""
    shards: dict[str, int] = {}
    for evaluation in evaluations:
        needed = shards_needed(evaluation.samples, shard_size)
        shards[evaluation.cell] = max(shards.get(evaluation.cell, 0), needed)
    return shards
