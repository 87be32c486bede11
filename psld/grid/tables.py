"""The tables and claims of a grid: rows, columns, what an entry shows, and allowed differences."""

from collections.abc import Iterable
from itertools import product
from typing import Annotated, cast

from pydantic import Field, model_validator

from psld.config.settings import FREE, Settings
from psld.evaluation.results import NUMBER_KINDS, Show
from psld.grid.names import PLACEHOLDER, MetricName, fill


class EntryPart(Settings):
    """The part of what an entry shows that its table, its row or its column gives."""

    model: str | None = None
    sampler: str | None = None
    """A sampler family; `budget` completes it."""
    budget: str | int | float | None = None
    """Steps or tolerance: the value of the family's budget key."""
    samples: int | None = Field(default=None, ge=3)
    """The number of images that are measured, the first ones of each seed."""
    metric: MetricName | None = None
    show: Show | None = None
    """The kind of number; the metric's value by default."""

    def fits(self, shown: "Shown") -> bool:
        """Return whether an entry shows everything that is given here."""
        given = self.model_dump(exclude_none=True)
        return all(str(getattr(shown, key)) == str(value) for key, value in given.items())


class Shown(Settings):
    """What an entry shows."""

    model: str
    sampler: str
    budget: str
    samples: int
    metric: MetricName
    show: Show

    @property
    def cell(self) -> str:
        """The name of the cell with the first seeds, MODEL/SAMPLER-BUDGET."""
        return f"{self.model}/{self.sampler}-{self.budget}"


class Line(EntryPart):
    fields: dict[str, str] = Field(default_factory=dict)
    """Values for {placeholders} in the other texts of its entries."""


class Column(Line):
    label: str


class Row(Line):
    label: tuple[str, ...]
    """One text for each of the table's row headings."""
    paper: tuple[float | None, ...] | None = None
    source: str | None = None
    """The certainty of the paper's numbers, for the CSV; docs/results.md explains the words."""
    literature: bool = False
    """A result of another paper: printed, never run."""


def merge_parts(parts: Iterable[EntryPart], fields: dict[str, str], where: str) -> Shown:
    """Return what some parts show together; the last one counts. Raises ValueError if one lacks."""
    keys = list(Shown.model_fields)
    values = {key: v for part in parts for key in keys if (v := getattr(part, key)) is not None}
    values = fill(values, fields)
    for key in keys:
        if key not in values:
            raise ValueError(f"{where}: no {key}")
        if PLACEHOLDER.search(str(values[key])):
            raise ValueError(
                f"{where}: {key} {values[key]!r} has a placeholder that is not among the fields: "
                f"{', '.join(fields) or 'there are none'}"
            )
    return Shown(**values | {"budget": str(values["budget"])})


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
        """Return the larger of the two widths around a value of the paper."""
        absolute = self.absolute if NUMBER_KINDS[show].from_features else 0.0
        return max(absolute, self.relative * abs(paper))


class Contrast(Settings):
    """Values of a table that its sentence compares with each other."""

    where: str = ""
    """Opening words about what all entries share, such as `With 40 EM steps,`."""
    entries: dict[str, EntryPart] = Field(min_length=2)
    """By its name in the sentence, the part that tells each entry from the table's others."""


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
    caption: str = ""
    footnotes: tuple[str, ...] = ()
    band: Band | None = None
    """The allowed difference from the paper's values."""
    compare: Annotated[tuple[Contrast, ...], FREE] = ()
    """The comparisons that the table's sentence answers; without any, it names the best entry."""
    cell: EntryPart = EntryPart()
    rows: tuple[Row, ...] = Field(min_length=1)
    columns: tuple[Column, ...] = Field(min_length=1)

    def shown(self, defaults: EntryPart) -> list[list[Shown]]:
        """Return what the entries show, row by row. Raises ValueError if one names no cell."""

        def entry(row: Row, column: Column) -> Shown:
            parts = (defaults, self.cell, row, column)
            if row.literature:
                show: Show = next(part.show for part in reversed(parts) if part.show)
                return cast(Shown, EntryPart(show=show))
            where = f"table {self.title!r}, row {row.label}, column {column.label}"
            return merge_parts(parts, row.fields | column.fields, where)

        return [[entry(row, column) for column in self.columns] for row in self.rows]

    @model_validator(mode="after")
    def _check_rows(self) -> "Table":
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


class Claim(Settings):
    """A comparison of the paper: numbers in the grid's tables are smaller than others.

    A placeholder takes every value of its list under `over`; several take all combinations.
    """

    claim: str
    smaller: EntryPart
    larger: EntryPart
    times: float = Field(1.0, gt=0)
    """Multiplies the larger number: 1.1 claims "not worse by more than 10 %", .5 "at most half"."""
    cell: EntryPart = EntryPart()
    over: dict[str, tuple[str | int | float, ...]] = Field(default_factory=dict)

    def pairs(self, defaults: EntryPart) -> list[tuple[str, Shown, Shown]]:
        """Return the values of each comparison's lists, and both sides, the smaller one first.

        Raises ValueError if the sides cannot be compared.
        """
        where, pairs = f"claim {self.claim!r}", []
        for values in product(*self.over.values()):
            fields = dict(zip(self.over, map(str, values), strict=True))
            smaller, larger = (
                merge_parts((defaults, self.cell, side), fields, where)
                for side in (self.smaller, self.larger)
            )
            kinds = {(side.metric, side.samples, side.show) for side in (smaller, larger)}
            if len(kinds) > 1:
                raise ValueError(f"{where}: compare one metric of equal numbers of samples")
            pairs.append((", ".join(fields.values()), smaller, larger))
        return pairs
