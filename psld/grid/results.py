"""The results of a grid's cells: the metrics of each cell, and the entries of tables."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from psld.config.settings import Settings, parse
from psld.grid.resolved import Grid
from psld.grid.schema import Band, Evaluation, Row, Show, Table
from psld.metrics.estimate import Estimate
from psld.utils.errors import UserError
from psld.utils.files import read_json, write_json

Status = Literal["reproduced", "off", "measured", "not run", "literature"]

STATUSES: tuple[Status, ...] = get_args(Status)


class Weights(Settings):
    """The trained weights behind a result."""

    name: str
    weights_sha256: str
    dataset_digest: str | None
    step: int | None
    settings: dict[str, Any]
    """The settings that decide the weights."""


class CellResult(Settings):
    """One metric of the first `samples` images of a cell."""

    metric: dict[str, Any]
    """Settings of the metric."""
    estimate: Estimate
    """The value, with what its interval needs."""
    class_accuracy: float | None
    """Share of guided samples whose class the metric's classifier recognizes."""
    nfe: float
    """Network evaluations per image, counted."""
    sampling_seconds: float
    sampling_device: str
    floor: float | None
    """The metric of real images that are not in the reference; null without a test split."""
    noise: float
    """The metric of pure noise."""
    nearest: tuple[tuple[int, int], ...] | None
    """For memorization: the nearest pairs of sample and training image; null for other metrics."""
    extractor_test_accuracy: float | None
    reference_samples: int
    reference_sha256: str
    """SHA-256 of the reference's features."""
    kept_sha256: str | None
    """SHA-256 of the file of features or statistics next to the cell's results; null if the
    extractor has more than 512 features."""
    model: Weights
    guide: Weights | None
    sampler: dict[str, Any]
    """Settings of the sampler."""
    seed: int
    versions: dict[str, str | None]
    precision: dict[str, Any]
    git_revision: str | None

    @property
    def value(self) -> float:
        """The metric over all samples."""
        return self.estimate.value

    @property
    def samples(self) -> int:
        return self.estimate.samples


class CellResults(Settings):
    """All metrics of a cell, from one pass over its shards."""

    results: tuple[CellResult, ...]

    def write(self, path: str | Path) -> None:
        """Write the record atomically."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def read(cls, path: str | Path) -> "CellResults":
        """Read a record. Raises UserError if it is damaged or from another version."""
        content = read_json(path)
        wrong = f"{path}: not the metrics of a cell; delete it and evaluate again"
        if not isinstance(content, dict):
            raise UserError(wrong)
        return parse(cls, content, where=wrong)


@dataclass(frozen=True)
class TableEntry:
    """One entry of a table: the measured value and the paper's value, if they exist."""

    row: Row
    column: str
    show: Show
    evaluation: Evaluation | None
    result: CellResult | None
    """The cell's result; None for a literature row or a cell that has not been run."""
    paper: float | None
    band: Band | None

    @property
    def value(self) -> float | None:
        """The measured value: the metric, the counted network evaluations or the class accuracy."""
        return None if self.result is None else getattr(self.result, self.show)

    @property
    def difference(self) -> float | None:
        """The measured value minus the paper's."""
        return None if self.value is None or self.paper is None else self.value - self.paper

    @property
    def width(self) -> float | None:
        """The largest difference that counts as reproduced."""
        return self.band and self.paper and self.band.width(self.paper, self.show)

    @property
    def status(self) -> Status:
        """The status of the entry; `measured` if there is nothing to compare with."""
        if self.row.literature:
            return "literature"
        if self.value is None:
            return "not run"
        if self.difference is None or self.width is None:
            return "measured"
        return "reproduced" if abs(self.difference) <= self.width else "off"


def read_result(grid: Grid, cells: Path, evaluation: Evaluation) -> CellResult | None:
    """Read a metric of one cell; None if it does not exist yet or has other settings.

    Args:
        cells: folder of the grid's metrics files, MODEL/SAMPLER.json.
    """
    path = cells / f"{evaluation.cell}.json"
    if not path.exists():
        return None
    results = CellResults.read(path).results
    return next((result for result in results if _is_of(grid, evaluation, result)), None)


def _is_of(grid: Grid, evaluation: Evaluation, result: CellResult) -> bool:
    """Check that a result was made with the grid's current settings."""
    sampler = grid.samplers[evaluation.sampler]
    wanted = (
        grid.models[evaluation.model].settings,
        sampler.guide and grid.guides[sampler.guide].settings,
        sampler.settings,
        grid.metrics[evaluation.metric],
        grid.file.seed,
        evaluation.samples,
    )
    guide = result.guide and result.guide.settings
    made = (result.model.settings, guide, result.sampler, result.metric, result.seed)
    return wanted == (*made, result.samples)


def read_table(grid: Grid, name: str, cells: Path) -> list[list[TableEntry]]:
    """All entries of a table, row by row.

    Args:
        cells: folder of the grid's metrics files, MODEL/SAMPLER.json.
    """
    table: Table = grid.file.tables[name]
    entries = []
    for row, evaluations in zip(table.rows, grid.table_evaluations(name), strict=True):
        papers = row.paper or (None,) * len(table.columns)
        entries.append(
            [
                TableEntry(
                    row=row,
                    column=column.label,
                    show=table.show_of(row, column),
                    evaluation=evaluation,
                    result=evaluation and read_result(grid, cells, evaluation),
                    paper=paper,
                    band=table.band,
                )
                for column, evaluation, paper in zip(
                    table.columns, evaluations, papers, strict=True
                )
            ]
        )
    return entries


def paper_values(grid: Grid) -> dict[Evaluation, dict[Show, float]]:
    """Return the paper's numbers for each evaluation, by kind: distance, network evaluations."""
    printed: dict[Evaluation, dict[Show, float]] = {}
    for name, table in grid.file.tables.items():
        for row, evaluations in zip(table.rows, grid.table_evaluations(name), strict=True):
            papers = row.paper or (None,) * len(table.columns)
            for column, evaluation, paper in zip(table.columns, evaluations, papers, strict=True):
                if evaluation and paper is not None:
                    printed.setdefault(evaluation, {})[table.show_of(row, column)] = paper
    return printed
