"""A grid file → models, samplers, cells and tables. Imports no torch: every Snakemake process does.

A grid (configs/grid/NAME.yaml) names models and samplers by the same Hydra overrides that the
command line takes, and tables whose entries are cells: a model, a sampler and its budget. Composing
them takes seconds, so the result is cached under the digest of all configs.
"""

import hashlib
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from psld.errors import UserError
from psld.files import read_json, write_json
from psld.rehearsal import Rehearsal, rehearsal_content
from psld.samplers.settings import shards_needed
from psld.settings import Settings, parse

CACHE = Path(".cache/grids")
Show = Literal["value", "nfe", "class_accuracy"]


class Entry(Settings):
    """Where an entry of a table finds its cell; rows and columns each give a part of it."""

    model: str | None = None
    sampler: str | None = None
    """A sampler family; `budget` completes it."""
    budget: str | int | None = None
    """Steps or tolerance: the value of the family's budget key."""
    samples: int | None = Field(None, ge=1)
    metric: str | None = None
    show: Show | None = None
    """Show the metric's value (the default), the counted network evaluations, or the share of
    guided samples whose class the metric's classifier recognises."""


class Column(Entry):
    label: str


class Row(Entry):
    label: tuple[str, ...]
    """One text for each of the table's row headings."""
    fields: dict[str, str] = Field(default_factory=dict)
    """Values for {placeholders} in the names of models and samplers."""
    paper: tuple[float | None, ...] | None = None
    """The paper's number in each column."""
    source: str | None = None
    """How sure the paper's numbers are."""
    literature: bool = False
    """Produced by other papers: printed, never run."""


class Band(Settings):
    """How near the paper's value ours must come to count as reproduced; stated before any run.

    The wider of the two holds. A count of network evaluations has no absolute band.
    """

    absolute: float = Field(ge=0)
    """In units of the metric."""
    relative: float = Field(ge=0)
    """As a part of the paper's value."""
    reason: str
    """Why so near; printed under the table."""

    def width(self, paper: float, show: Show) -> float:
        """The largest difference from the paper's value that counts as reproduced."""
        return max(self.absolute if show != "nfe" else 0.0, self.relative * abs(paper))


class Table(Settings):
    """A table of the paper, or one of its shape."""

    title: str
    headings: tuple[str, ...]
    """Names of the row headings."""
    caption: str = ""
    footnotes: tuple[str, ...] = ()
    band: Band | None = None
    """How near the paper's values ours must come."""
    cell: Entry = Entry()
    """What all entries share."""
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]

    def show_of(self, row: Row, column: Column) -> Show:
        """What the entry in a row and column shows."""
        return column.show or row.show or self.cell.show or "value"

    @model_validator(mode="after")
    def _rows_fit(self) -> "Table":
        names = [*self.headings, *(column.label for column in self.columns)]
        if len(set(names)) < len(names):
            raise ValueError(f"headings and columns need different names, not {', '.join(names)}")
        for row in self.rows:
            if len(row.label) != len(self.headings):
                raise ValueError(f"row {row.label}: needs {len(self.headings)} labels")
            if row.paper is not None and len(row.paper) != len(self.columns):
                raise ValueError(f"row {row.label}: needs {len(self.columns)} paper values")
        return self


class SamplerFamily(Settings):
    """Samplers that differ in their budget alone."""

    overrides: tuple[str, ...]
    budget: str
    """The setting that is the budget: sampler.steps or sampler.tolerance."""
    spends: str | int | None = None
    """The budget that is really spent, whatever the sampler's name says: in a rehearsal."""
    classifier: str | None = None
    """The classifier that guides it, for guidance@sampler.guidance=classifier."""


class TrainedEntry(Settings):
    """A model or classifier of a grid; a list of overrides stands for one without a checkpoint."""

    overrides: tuple[str, ...]
    checkpoint: str | None = None
    """An official checkpoint to import instead of training."""

    @model_validator(mode="before")
    @classmethod
    def _from_overrides(cls, content: Any) -> Any:
        return {"overrides": content} if isinstance(content, list | tuple) else content


class GridFile(Settings):
    """configs/grid/NAME.yaml as it is written."""

    defaults: tuple[str, ...] = ()
    """Overrides that all models share."""
    metric: str
    samples: int = Field(ge=1)
    """Samples per cell, unless a table says otherwise."""
    shard_size: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    """Images per network evaluation when sampling; changes speed and memory, never the images."""
    seed: int = Field(0, ge=0)
    """Seed of all samples: the same noise for every cell."""
    gallery: str
    """The sampler, with its budget, whose images are shown for each model."""
    models: dict[str, TrainedEntry]
    classifiers: dict[str, TrainedEntry] = Field(default_factory=dict)
    """Noise-conditional classifiers that guide samplers; `defaults` are not theirs."""
    samplers: dict[str, SamplerFamily]
    figures: dict[str, str] = Field(default_factory=dict)
    """Pictures of cells, MODEL/SAMPLER, by name, whether or not they stand in a table: guided
    samples, inpainted images."""
    tables: dict[str, Table]

    @model_validator(mode="after")
    def _entries_are_cells(self) -> "GridFile":
        for table in self.tables:
            self.table_evaluations(table)
        for figure, cell in self.figures.items():
            model, _, sampler = cell.partition("/")
            if not (model and any(sampler.startswith(f"{f}-") for f in self.samplers)):
                raise ValueError(
                    f"figures.{figure}: {cell!r} is not MODEL/SAMPLER-BUDGET; "
                    f"the samplers are: {', '.join(self.samplers)}"
                )
        return self

    def table_evaluations(self, name: str) -> list[list["Evaluation | None"]]:
        """The evaluation behind each entry of a table, row by row; a literature row has none.

        Raises ValueError where table, row and column together name no cell.
        """
        table = self.tables[name]
        return [
            [
                None if row.literature else self._evaluation(table, row, column)
                for column in table.columns
            ]
            for row in table.rows
        ]

    def _evaluation(self, table: Table, row: Row, column: Column) -> "Evaluation":
        """Merge what table, row and column say."""
        merged = {"metric": self.metric, "samples": self.samples}
        for part in (table.cell, row, column):
            given = part.model_dump(include=set(Entry.model_fields), exclude_none=True)
            merged.update(given)
        for key in ("model", "sampler"):
            try:
                merged[key] = merged.get(key) and merged[key].format(**row.fields)
            except (KeyError, IndexError, ValueError):
                raise ValueError(
                    f"table {table.title!r}, row {row.label}: {key} {merged[key]!r} has a "
                    "placeholder that is not among the row's fields: "
                    f"{', '.join(row.fields) or 'it has none'}"
                ) from None
        for key in ("model", "sampler", "budget"):
            if merged.get(key) is None:
                raise ValueError(
                    f"table {table.title!r}, row {row.label}: no {key} for {column.label}"
                )
        if merged["sampler"] not in self.samplers:
            raise ValueError(
                f"table {table.title!r}, row {row.label}: unknown sampler {merged['sampler']!r}; "
                f"there are: {', '.join(self.samplers)}"
            )
        return Evaluation(
            model=merged["model"],
            sampler=f"{merged['sampler']}-{merged['budget']}",
            metric=merged["metric"],
            samples=merged["samples"],
        )

    def overrides_of(self, sampler: str) -> tuple[str, ...]:
        """A family's overrides, completed by the budget that ends the sampler's name."""
        name = self.family_of(sampler)
        family = self.samplers[name]
        budget = family.spends or sampler.removeprefix(f"{name}-")
        return (*family.overrides, f"{family.budget}={budget}")

    def family_of(self, sampler: str) -> str:
        """The family of a sampler, whose name is FAMILY-BUDGET."""
        return max((f for f in self.samplers if sampler.startswith(f"{f}-")), key=len)


class ComposedModel(Settings):
    overrides: tuple[str, ...]
    checkpoint: str | None
    dataset: str
    process: str
    """The process's kind."""
    settings: dict[str, Any]
    """What decides the weights."""


class ComposedClassifier(Settings):
    overrides: tuple[str, ...]
    checkpoint: str | None
    dataset: str
    settings: dict[str, Any]
    """What decides the weights."""


class ComposedSampler(Settings):
    overrides: tuple[str, ...]
    settings: dict[str, Any]
    classifier: str | None
    """The classifier of the grid that guides it."""

    @property
    def guidance(self) -> str:
        """The kind of its guidance."""
        return self.settings["guidance"]["kind"]

    @property
    def mask(self) -> dict[str, Any]:
        """The settings of the mask that it inpaints with; empty where it does not."""
        return self.settings["guidance"].get("mask", {})


class Evaluation(Settings):
    """One number: a metric of the first `samples` images of a cell."""

    model: str
    sampler: str
    metric: str
    samples: int

    @property
    def cell(self) -> str:
        return f"{self.model}/{self.sampler}"

    @property
    def file_name(self) -> str:
        return f"{self.metric}-{self.samples}.json"


class Grid(Settings):
    """A grid with everything resolved."""

    name: str
    file: GridFile
    models: dict[str, ComposedModel]
    classifiers: dict[str, ComposedClassifier]
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

    @property
    def plotted(self) -> list[Evaluation]:
        """What can stand in one plot: unguided, by the grid's own metric and number of samples."""
        own = (self.file.metric, self.file.samples)
        return [
            evaluation
            for evaluation in self.evaluations
            if (evaluation.metric, evaluation.samples) == own
            and self.samplers[evaluation.sampler].guidance == "none"
        ]

    def evaluations_of(self, cell: str) -> list[Evaluation]:
        return [evaluation for evaluation in self.evaluations if evaluation.cell == cell]

    def shards_of(self, evaluation: Evaluation) -> int:
        """How many shards an evaluation reads."""
        return shards_needed(evaluation.samples, self.file.shard_size)

    def table_evaluations(self, table: str) -> list[list[Evaluation | None]]:
        """The evaluation behind each entry of a table, row by row; None where there is none."""
        return self.file.table_evaluations(table)


def load_grid(name: str, configs: Path) -> Grid:
    """Load and compose configs/grid/NAME.yaml; from the cache where no config has changed.

    Raises UserError, naming file and key, for anything that does not compose.
    """
    path = configs / "grid" / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise UserError(f"{path}: no such grid; there are: {known}")
    cached = CACHE / f"{name}-{_digest_of_configs(configs)}.json"
    if cached.exists():
        return parse(Grid, read_json(cached), where=str(cached))
    # Hydra is slow to import, and not needed where the cache answers.
    from psld.compose import compose_grid

    grid = compose_grid(name, _read(path), path, configs)
    write_json(cached, grid.model_dump(mode="json"))
    return grid


def _read(path: Path) -> GridFile:
    """A grid file as it is written, or what it stands for if it rehearses another one."""
    content = _content(path)
    if "rehearses" in content:
        rehearsal = parse(Rehearsal, content, where=str(path))
        rehearsed = path.with_name(f"{rehearsal.rehearses}.yaml")
        whole = _content(rehearsed)
        if "rehearses" in whole:
            raise UserError(f"{path}: rehearses: {rehearsed} is itself a rehearsal; name a grid")
        whole = parse(GridFile, whole, where=str(rehearsed))
        content = rehearsal_content(path.stem, rehearsal, whole)
    return parse(GridFile, content, where=str(path))


def _content(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no such grid") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a grid: settings by their names are needed")
    return content


def expand_model(arguments: list[str], configs: Path) -> list[str]:
    """Replace `model=GRID/NAME` among overrides by those of that grid's model.

    What else is given comes after them, so it prevails. Raises UserError for an unknown model.
    """
    return _expand("model", arguments, configs)


def expand_classifier(arguments: list[str], configs: Path) -> list[str]:
    """The same for `classifier=GRID/NAME`."""
    return _expand("classifier", arguments, configs)


def _expand(kind: Literal["model", "classifier"], given: list[str], configs: Path) -> list[str]:
    chosen = [argument for argument in given if argument.startswith(f"{kind}=")]
    if not chosen:
        return given
    grid_name, _, name = chosen[-1].removeprefix(f"{kind}=").partition("/")
    grid = load_grid(grid_name, configs)
    known = grid.models if kind == "model" else grid.classifiers
    if name not in known:
        raise UserError(
            f"{kind}={grid_name}/{name}: no such {kind} in configs/grid/{grid_name}.yaml; "
            f"there are: {', '.join(known)}"
        )
    own = [*known[name].overrides, f"grid_name={grid_name}", f"name={name}"]
    return own + [argument for argument in given if argument not in chosen]


def _digest_of_configs(configs: Path) -> str:
    """Digest of every config and of the code that reads them."""
    package = Path(__file__).parent
    code = ("grid.py", "rehearsal.py", "compose.py", "settings.py", "samplers/fit.py")
    sources = [package / name for name in code]
    digest = hashlib.sha256()
    for file in sorted([*configs.rglob("*.yaml"), *sources, *package.glob("*/settings.py")]):
        digest.update(str(file).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
