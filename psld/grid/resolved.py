"""A grid with everything resolved: models, guides, samplers, cells. Imports no torch."""

from typing import Any

from psld.config.settings import Settings
from psld.grid.schema import Evaluation, GridFile
from psld.sampling.settings import shards_needed


class ComposedTraining(Settings):
    """A model or a guide with everything resolved."""

    overrides: tuple[str, ...]
    checkpoint: str | None
    dataset: str
    settings: dict[str, Any]
    """What decides the weights."""


class ComposedSampler(Settings):
    overrides: tuple[str, ...]
    settings: dict[str, Any]
    guide: str | None
    """The guide of the grid that guides it."""

    @property
    def guidance(self) -> str:
        """The kind of its guidance."""
        return self.settings["guidance"]["kind"]

    @property
    def mask(self) -> dict[str, Any]:
        """The settings of the mask that it inpaints with; empty where it does not."""
        return self.settings["guidance"].get("mask", {})


class Grid(Settings):
    """A grid with everything resolved."""

    name: str
    file: GridFile
    models: dict[str, ComposedTraining]
    guides: dict[str, ComposedTraining]
    samplers: dict[str, ComposedSampler]
    datasets: dict[str, dict[str, Any]]
    """What the preparation of each dataset depends on."""
    metrics: dict[str, dict[str, Any]]
    """Settings of each metric."""
    evaluations: tuple[Evaluation, ...]

    @property
    def cells(self) -> list[str]:
        """Names of all cells, MODEL/SAMPLER, in the order of the tables."""
        return list(dict.fromkeys(evaluation.cell for evaluation in self.evaluations))

    def evaluations_of(self, cell: str) -> list[Evaluation]:
        return [evaluation for evaluation in self.evaluations if evaluation.cell == cell]

    def shards_of(self, evaluation: Evaluation) -> int:
        """How many shards an evaluation reads."""
        return shards_needed(evaluation.samples, self.file.shard_size)

    def table_evaluations(self, table: str) -> list[list[Evaluation | None]]:
        """The evaluation behind each entry of a table, row by row; None where there is none."""
        return self.file.table_evaluations(table)
