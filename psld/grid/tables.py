"""The settings of tables and claims in a grid file: rows, columns, entries and bands."""

from collections.abc import Iterable
from itertools import product
from typing import Annotated, cast

from pydantic import Field, model_validator

from psld.config.settings import FREE, Settings
from psld.evaluation.results import NUMBER_KINDS, Show
from psld.grid.names import PLACEHOLDER, MetricName, fill


class EntryPart(Settings):
    """Some of the keys that specify a table entry. The table, the row and the column each give some
    of these keys."""

    model: str | None = None
    sampler: str | None = None
    """The name of a sampler family."""
    budget: str | int | float | None = None
    """The value of the family's budget key, such as steps or tolerance."""
    samples: int | None = Field(default=None, ge=3)
    """The number of images per seed that are measured. These are the first images of the seed."""
    metric: MetricName | None = None
    show: Show | None = None
    """The kind of number that the entry shows; the default is the value of the metric."""

    def fits(self, shown: "Shown") -> bool:
        """Return True if the keys given here have the same values in `shown`."""
        given = self.model_dump(exclude_none=True)
        return all(str(getattr(shown, key)) == str(value) for key, value in given.items())


class Shown(Settings):
    """What a table entry shows: the cell, the measurement, and the kind of number."""

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
    """Values of the {placeholders} in the entries of the row or column."""


class Column(Line):
    label: str


class Row(Line):
    label: tuple[str, ...]
    """One string for each of the table's `headings`."""
    paper: tuple[float | None, ...] | None = None
    """The paper's numbers, one for each column; null if the paper reports no number."""
    source: str | None = None
    """How certain the paper's numbers are. The value is written to the CSV; docs/results.md lists
    the possible values."""
    literature: bool = False
    """True for a row with results of another paper. Such a row is printed but never computed."""


def merge_parts(parts: Iterable[EntryPart], fields: dict[str, str], where: str) -> Shown:
    """Merge the keys that specify an entry. Later parts override earlier parts.

    Raises ValueError if a key is missing or has a placeholder without a value.
    """
    keys = list(Shown.model_fields)
    values = {key: v for part in parts for key in keys if (v := getattr(part, key)) is not None}
    values = fill(values, fields)
    for key in keys:
        if key not in values:
            raise ValueError(f"{where}: {key} is missing")
        if PLACEHOLDER.search(str(values[key])):
            raise ValueError(
                f"{where}: {key} {values[key]!r} has an unknown placeholder; there are: "
                f"{', '.join(fields) or 'none'}"
            )
    return Shown(**values | {"budget": str(values["budget"])})


class Band(Settings):
    """The largest difference from the paper that counts as reproduced, fixed before any run.

    The larger of the absolute and relative widths applies. A sampling cost has only the relative
    width.
    """

    absolute: float = Field(ge=0)
    """The absolute width, in units of the metric."""
    relative: float = Field(ge=0)
    """The relative width, as a fraction of the paper's value."""
    reason: str
    """The reason for these widths; printed under the table."""

    def width(self, paper: float, show: Show) -> float:
        """Return the width of the band around a value of the paper."""
        absolute = self.absolute if NUMBER_KINDS[show].from_features else 0.0
        return max(absolute, self.relative * abs(paper))


class Contrast(Settings):
    """Values of a table that the sentence about the table compares with each other."""

    where: str = ""
    """The first words of the sentence. These words state what all entries have in common, such as
    `With 40 EM steps,`."""
    entries: dict[str, EntryPart] = Field(min_length=2)
    """The entries to compare. Each key is the name of an entry in the sentence. Each value contains
    the keys that distinguish this entry from all other entries of the table."""


RECORDED = (
    *("seeds", "column", "cell", "metric", "shows", "ours", "low", "high", "deviation", "minimum"),
    *("extrapolated", "extrapolated_low", "extrapolated_high", "paper", "source", "difference"),
    *("band", "status", "needs", "more_samples", "trainings", "rank", "p_value", "paired"),
    *("samples", "nfe", "sampling_seconds", "sampling_device"),
)
"""The CSV columns for an entry. In the CSV, these columns follow the labels of the row."""


class Table(Settings):
    """A table of a grid, with the numbers of the paper if available."""

    title: str
    headings: tuple[str, ...]
    caption: str = ""
    footnotes: tuple[str, ...] = ()
    band: Band | None = None
    """The largest difference from the paper's values that counts as reproduced."""
    compare: Annotated[tuple[Contrast, ...], FREE] = ()
    """The comparisons that the sentence about the table states. If there are none, the sentence
    names the best entry."""
    cell: EntryPart = EntryPart()
    rows: tuple[Row, ...] = Field(min_length=1)
    columns: tuple[Column, ...] = Field(min_length=1)

    def shown(self, defaults: EntryPart) -> list[list[Shown]]:
        """Return what each entry shows, row by row.

        Raises ValueError if an entry does not specify a cell.
        """

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
            raise ValueError(
                f"headings and columns must have different names, not {', '.join(names)}"
            )
        if taken := set(self.headings) & set(RECORDED):
            raise ValueError(
                f"headings: {', '.join(sorted(taken))}: the CSV has a column of this name; rename "
                "the heading"
            )
        for row in self.rows:
            if len(row.label) != len(self.headings):
                n = len(self.headings)
                raise ValueError(f"row {row.label}: needs {n} labels, one for each heading")
            if row.paper is not None and len(row.paper) != len(self.columns):
                n = len(self.columns)
                raise ValueError(f"row {row.label}: needs {n} paper values, one for each column")
        return self


class Claim(Settings):
    """A claim that numbers in the tables of the grid are smaller than other numbers in the tables.

    `over` lists the values of each placeholder. The claim is tested for each value or, with several
    placeholders, for all combinations of their values.
    """

    claim: str
    smaller: EntryPart
    larger: EntryPart
    times: float = Field(1.0, gt=0)
    """The factor by which the larger number is multiplied. 1.1 claims "at most 10 % worse", and 0.5
    claims "at most half"."""
    cell: EntryPart = EntryPart()
    over: dict[str, tuple[str | int | float, ...]] = Field(default_factory=dict)

    def pairs(self, defaults: EntryPart) -> list[tuple[str, Shown, Shown]]:
        """Return the comparisons: the values of the placeholders, the smaller and the larger side.

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
                raise ValueError(f"{where}: both sides need the same metric, samples and show")
            pairs.append((", ".join(fields.values()), smaller, larger))
        return pairs
