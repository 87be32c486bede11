"""The schema of a grid's tables: rows and columns that name cells, the paper's numbers, bands.

And of its claims, which compare two numbers.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product, repeat
from typing import Any, NamedTuple

from pydantic import Field, model_validator

from psld.config.settings import Settings
from psld.metrics.results import NUMBER_KINDS, Show

PLACEHOLDER = re.compile(r"\{(\w+)\}")


def fill(content: Any, values: dict[str, str]) -> Any:
    """Return the content with the placeholders that have a value replaced, in keys and texts."""
    match content:
        case str():
            return PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), content)
        case dict():
            return {fill(key, values): fill(value, values) for key, value in content.items()}
        case list():
            return [fill(value, values) for value in content]
    return content


class Number(NamedTuple):
    """One number of a grid: a metric of the first `samples` images of a cell, for all its seeds."""

    model: str
    sampler: str
    budget: str
    metric: str
    samples: int

    @property
    def cell(self) -> str:
        """The name of the cell with the first seeds, MODEL/SAMPLER-BUDGET."""
        return f"{self.model}/{self.sampler}-{self.budget}"


class Entry(Settings):
    """The cell of a table entry; rows and columns each give a part of it."""

    model: str | None = None
    sampler: str | None = None
    """A sampler family; `budget` completes it."""
    budget: str | int | float | None = None
    """Steps or tolerance: the value of the family's budget key."""
    samples: int | None = Field(None, ge=3)
    metric: str | None = None
    show: Show | None = None
    """The kind of number; the metric's value by default."""
    fields: dict[str, str] = Field(default_factory=dict)
    """Values for {placeholders} in the other texts of the cell."""


class Column(Entry):
    label: str


class Row(Entry):
    label: tuple[str, ...]
    """One text for each of the table's row headings."""
    paper: tuple[float | None, ...] | None = None
    """The paper's number in each column."""
    source: str | None = None
    """The certainty of the paper's numbers, for the CSV; docs/results.md explains the words."""
    literature: bool = False
    """A result of another paper: printed, never run."""


def merged(parts: Iterable[Entry], fields: dict[str, str], where: str) -> tuple[Number, Show]:
    """Return the number that some entries give together; the last one counts.

    Raises ValueError, with `where`, if it has no cell or a placeholder that is not a field.
    """
    keys = [key for key in Entry.model_fields if key != "fields"]
    values = dict.fromkeys(keys)
    for part in parts:
        values |= {key: getattr(part, key) for key in keys if getattr(part, key) is not None}
    show = values.pop("show")
    values = fill(values, fields)
    for key, value in values.items():
        if value is None:
            raise ValueError(f"{where}: no {key}")
        if PLACEHOLDER.search(str(value)):
            raise ValueError(
                f"{where}: {key} {value!r} has a placeholder that is not among the fields: "
                f"{', '.join(fields) or 'there are none'}"
            )
    return Number(**values | {"budget": str(values["budget"])}), show


class Band(Settings):
    """The largest difference from the paper that counts as reproduced; fixed before any run.

    The wider of the two applies. A cost of sampling has no absolute band.
    """

    absolute: float = Field(ge=0)
    """In units of the metric."""
    relative: float = Field(ge=0)
    """As a fraction of the paper's value."""
    reason: str
    """The reason for this width; printed under the table."""

    def width(self, paper: float, show: Show) -> float:
        """The largest difference from the paper's value that counts as reproduced."""
        absolute = self.absolute if NUMBER_KINDS[show].from_features else 0.0
        return max(absolute, self.relative * abs(paper))


@dataclass(frozen=True)
class Place:
    """One entry of a table before any result."""

    row: Row
    column: str
    """The column's label."""
    show: Show
    paper: float | None
    """The paper's number, if it has one."""
    number: Number | None
    """The number it shows; None in a literature row."""

    @property
    def label(self) -> str:
        """The labels of its row and its column."""
        return f"{' '.join(self.row.label)}, {self.column}"


RECORDED = (
    *("seeds", "column", "cell", "metric", "shows", "ours", "low", "high", "deviation", "minimum"),
    *("extrapolated", "extrapolated_low", "extrapolated_high", "paper", "source", "difference"),
    *("band", "status", "needs", "more_samples", "trainings", "rank", "p_value", "paired"),
    *("samples", "nfe", "sampling_seconds", "sampling_device"),
)
"""The CSV columns for each entry of a table, next to the labels of its row."""


class Table(Settings):
    """A table of the paper, or one of the same shape."""

    title: str
    headings: tuple[str, ...]
    """Names of the row headings."""
    caption: str = ""
    footnotes: tuple[str, ...] = ()
    band: Band | None = None
    """The allowed difference from the paper's values."""
    cell: Entry = Entry()
    """The part that all entries share."""
    rows: tuple[Row, ...] = Field(min_length=1)
    columns: tuple[Column, ...] = Field(min_length=1)

    def places(self, metric: str, samples: int) -> list[list[Place]]:
        """Return the entries, row by row. Raises ValueError if one names no cell.

        Args:
            metric, samples: those of the grid, for entries that set no others.
        """
        defaults = Entry(metric=metric, samples=samples, show="value")
        return [
            [
                self._place(defaults, row, column, paper)
                for column, paper in zip(self.columns, row.paper or repeat(None), strict=False)
            ]
            for row in self.rows
        ]

    def _place(self, defaults: Entry, row: Row, column: Column, paper: float | None) -> Place:
        parts = (defaults, self.cell, row, column)
        if row.literature:
            show = [part.show for part in parts if part.show][-1]
            return Place(row, column.label, show, paper, None)
        where = f"table {self.title!r}, row {row.label}, column {column.label}"
        number, show = merged(parts, row.fields | column.fields, where)
        return Place(row, column.label, show, paper, number)

    @model_validator(mode="after")
    def _rows_fit(self) -> "Table":
        names = [*self.headings, *(column.label for column in self.columns)]
        if len(set(names)) < len(names):
            raise ValueError(f"headings and columns need different names, not {', '.join(names)}")
        if taken := set(self.headings) & set(RECORDED):
            raise ValueError(
                f"headings: {', '.join(sorted(taken))} is what the CSV calls another column; give "
                "the heading another name"
            )
        for row in self.rows:
            if len(row.label) != len(self.headings):
                raise ValueError(f"row {row.label}: needs {len(self.headings)} labels")
            if row.paper is not None and len(row.paper) != len(self.columns):
                raise ValueError(f"row {row.label}: needs {len(self.columns)} paper values")
        return self


class Comparison(NamedTuple):
    """Two numbers of a claim, of one kind."""

    label: str
    """The values of the claim's lists that tell it from the others."""
    smaller: Number
    larger: Number
    show: Show


class Claim(Settings):
    """A comparison of the paper: numbers in the grid's tables are smaller than others.

    A placeholder takes every value of its list under `over`; several take all combinations.
    """

    claim: str
    """The comparison in words."""
    smaller: Entry
    larger: Entry
    cell: Entry = Entry()
    """The part that both share."""
    over: dict[str, tuple[str | int | float, ...]] = Field(default_factory=dict)

    def comparisons(self, metric: str, samples: int) -> list[Comparison]:
        """Return the pairs of numbers. Raises ValueError if they cannot be compared.

        Args:
            metric, samples: those of the grid, for entries that set no others.
        """
        defaults = Entry(metric=metric, samples=samples, show="value")
        where, compared = f"claim {self.claim!r}", []
        for values in product(*self.over.values()):
            fields = dict(zip(self.over, map(str, values), strict=True))
            (smaller, show), (larger, other) = (
                merged((defaults, self.cell, side), fields, where)
                for side in (self.smaller, self.larger)
            )
            if smaller[3:] != larger[3:] or show != other:
                raise ValueError(f"{where}: compare one metric of equal numbers of samples")
            compared.append(Comparison(", ".join(fields.values()), smaller, larger, show))
        return compared
