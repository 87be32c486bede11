"""The entries of a grid's tables before any result: the cell or model whose number each shows."""

from collections.abc import Collection
from itertools import repeat
from typing import Any, NamedTuple

from psld.grid.tables import Column, Entry, Row, Show, Table
from psld.grid.templates import PLACEHOLDER, fill


class Evaluation(NamedTuple):
    """One number: a metric of the first `samples` images of a cell."""

    model: str
    sampler: str
    metric: str
    samples: int

    @property
    def cell(self) -> str:
        return f"{self.model}/{self.sampler}"


class Place(NamedTuple):
    """One entry of a table. A literature row has neither an evaluation nor a model."""

    row: Row
    column: Column
    show: Show
    paper: float | None
    """The paper's number, if it has one."""
    evaluation: Evaluation | None
    model: str | None
    """The model whose likelihood it shows."""


def places_of(
    table: Table, metric: str, samples: int, samplers: Collection[str]
) -> list[list[Place]]:
    """Return the entries of a table, row by row. Raises ValueError if one names no cell.

    Args:
        metric, samples: those of the grid, for entries that set no others.
        samplers: the names of the grid's sampler families.
    """
    grid = Entry(metric=metric, samples=samples)

    def place(row: Row, column: Column, paper: float | None) -> Place:
        evaluation, model, show = None, None, table.show_of(row, column)
        where, parts = f"table {table.title!r}, row {row.label}", (grid, table.cell, row, column)
        if show == "bits_per_dimension" and not row.literature:
            model = _merged(parts, ("model",), where)["model"]
        elif not row.literature:
            merged = _merged(parts, ("model", "sampler", "budget", "metric", "samples"), where)
            family, budget = merged.pop("sampler"), merged.pop("budget")
            if family not in samplers:
                raise ValueError(
                    f"{where}: unknown sampler {family!r}; there are: {', '.join(samplers)}"
                )
            evaluation = Evaluation(sampler=f"{family}-{budget}", **merged)
        return Place(row, column, show, paper, evaluation, model)

    return [
        [place(row, *pair) for pair in zip(table.columns, row.paper or repeat(None), strict=False)]
        for row in table.rows
    ]


def _merged(parts: tuple[Entry, ...], keys: tuple[str, ...], where: str) -> dict[str, Any]:
    """Merge the settings of grid, table, row and column. Raises ValueError for gaps."""
    *_, row, column = parts
    merged: dict[str, Any] = dict.fromkeys(keys)
    for part in parts:
        given = {key: getattr(part, key) for key in keys}
        merged |= {key: value for key, value in given.items() if value is not None}
    fields = row.fields | column.fields
    merged = fill(merged, fields)
    for key, value in merged.items():
        if value is None:
            raise ValueError(f"{where}: no {key} for {column.label}")
        if PLACEHOLDER.search(str(value)):
            raise ValueError(
                f"{where}: {key} {value!r} has a placeholder that is not among the fields of "
                f"row and column: {', '.join(fields) or 'there are none'}"
            )
    return merged
