"""The results of a grid's cells, as tables and pictures read them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from psld.utils.errors import UserError
from psld.utils.files import read_json
from psld.grid.loading import Grid
from psld.grid.schema import Band, Evaluation, Row, Show, Table

NEEDED = {
    *("metric", "value", "nfe", "noise", "floor", "extractor_test_accuracy"),
    *("model", "guide", "sampler", "seed"),
}
"""What tables and pictures need of a metrics file."""

Status = Literal["reproduced", "off", "measured", "not run", "literature"]

STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass(frozen=True)
class TableEntry:
    """One entry of a table: what we measured and what the paper says, where either exists."""

    row: Row
    column: str
    show: Show
    evaluation: Evaluation | None
    result: dict[str, Any] | None
    """The cell's metrics file; None for a literature row and for a cell that is yet to be run."""
    paper: float | None
    band: Band | None

    @property
    def value(self) -> float | None:
        """What the entry shows: the metric, the counted network evaluations, class accuracy."""
        return None if self.result is None else self.result[self.show]

    @property
    def difference(self) -> float | None:
        """Ours less the paper's value."""
        return None if self.value is None or self.paper is None else self.value - self.paper

    @property
    def width(self) -> float | None:
        """The largest difference that counts as reproduced."""
        return self.band and self.paper and self.band.width(self.paper, self.show)

    @property
    def status(self) -> Status:
        """`measured` where there is nothing to compare with."""
        if self.row.literature:
            return "literature"
        if self.value is None:
            return "not run"
        if self.difference is None or self.width is None:
            return "measured"
        return "reproduced" if abs(self.difference) <= self.width else "off"


def read_result(grid: Grid, cells: Path, evaluation: Evaluation) -> dict[str, Any] | None:
    """The metrics of one cell; None where they do not exist yet, or are those of other settings.

    Args:
        cells: folder of the grid's metrics files, CELL/METRIC-SAMPLES.json.
    """
    path = cells / evaluation.cell / evaluation.file_name
    if not path.exists():
        return None
    result = read_json(path)
    if not isinstance(result, dict) or NEEDED - result.keys():
        raise UserError(f"{path}: not the metrics of a cell; delete it and evaluate anew")
    return result if _is_of(grid, evaluation, result) else None


def _is_of(grid: Grid, evaluation: Evaluation, result: dict[str, Any]) -> bool:
    """Whether a result was made with what the grid says now: a grid may change before it is run."""
    sampler = grid.samplers[evaluation.sampler]
    wanted = {
        "model": grid.models[evaluation.model].settings,
        "guide": sampler.guide and grid.guides[sampler.guide].settings,
        "sampler": sampler.settings,
        "metric": grid.metrics[evaluation.metric],
        "seed": grid.file.seed,
    }
    made = {
        "model": result["model"]["settings"],
        "guide": result["guide"] and result["guide"]["settings"],
        "sampler": result["sampler"],
        "metric": result["metric"],
        "seed": result["seed"],
    }
    return made == wanted


def read_table(grid: Grid, name: str, cells: Path) -> list[list[TableEntry]]:
    """All entries of a table, row by row.

    Args:
        cells: folder of the grid's metrics files, CELL/METRIC-SAMPLES.json.
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
    """What the paper prints of each evaluation, by what it shows: distance, network evaluations."""
    printed: dict[Evaluation, dict[Show, float]] = {}
    for name, table in grid.file.tables.items():
        for row, evaluations in zip(table.rows, grid.table_evaluations(name), strict=True):
            papers = row.paper or (None,) * len(table.columns)
            for column, evaluation, paper in zip(table.columns, evaluations, papers, strict=True):
                if evaluation and paper is not None:
                    printed.setdefault(evaluation, {})[table.show_of(row, column)] = paper
    return printed
