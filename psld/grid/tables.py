"""The schema of a grid's tables: rows and columns that name cells, the paper's numbers, bands."""

from typing import Literal

from pydantic import Field, model_validator

from psld.config.settings import Settings

Show = Literal["value", "nfe", "class_accuracy", "bits_per_dimension"]


class Entry(Settings):
    """The cell of a table entry; rows and columns each give a part of it."""

    model: str | None = None
    sampler: str | None = None
    """A sampler family; `budget` completes it."""
    budget: str | int | None = None
    """Steps or tolerance: the value of the family's budget key."""
    samples: int | None = Field(None, ge=3)
    metric: str | None = None
    show: Show | None = None
    """Show the metric's value (the default), the counted network evaluations, the share of guided
    samples whose class the metric's classifier recognizes, or the bits per dimension of the model,
    which need no sampler."""
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


class Band(Settings):
    """The largest difference from the paper that counts as reproduced; fixed before any run.

    The wider of the two applies. A count of network evaluations has no absolute band.
    """

    absolute: float = Field(ge=0)
    """In units of the metric."""
    relative: float = Field(ge=0)
    """As a fraction of the paper's value."""
    reason: str
    """The reason for this width; printed under the table."""

    def width(self, paper: float, show: Show) -> float:
        """The largest difference from the paper's value that counts as reproduced."""
        return max(self.absolute if show != "nfe" else 0.0, self.relative * abs(paper))


RECORDED = (
    *("seeds", "column", "cell", "metric", "shows", "ours", "low", "high", "deviation", "minimum"),
    *("extrapolated", "paper", "source", "difference", "band", "status", "more_samples"),
    *("rank", "p_value", "paired", "samples", "nfe", "sampling_seconds", "sampling_device"),
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

    def show_of(self, row: Row, column: Column) -> Show:
        """Return the kind of number that the entry in a row and column shows."""
        return column.show or row.show or self.cell.show or "value"

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
