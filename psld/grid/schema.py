"""The schema of configs/grid/NAME.yaml: models and samplers by overrides, tables of cells, claims.

Templates are written out before (`psld.grid.reading`).
"""

import re
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from itertools import chain, product
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from psld.config.settings import FREE, Settings, in_hydra
from psld.evaluation.results import NUMBER_KINDS, Show
from psld.utils.errors import UserError

NAME = re.compile(
    r"(?!(null|true|false|nan|inf)$)(?!.*(.)\2{18})[a-z][a-z0-9._-]*", re.ASCII | re.IGNORECASE
)
"""Names in paths and command lines, where Hydra must not read them as a number or as nothing.
Snakemake takes a file that ends with one character 20 times for an endless recursion."""
SHARDS = 100_000
"""The largest number of a cell's shards: their files have five digits."""

OF_HYDRA = re.compile(r"(.*@)?[+~]*(_global_\.)?hydra")
LEADS_OUT = re.compile(r"[^.=]*=['\"]?(/|([^'\"]*/)?\.\.(/|['\"]?$))")
"""A word of a place or a config that is not below this folder."""


def _check_word(word: str) -> str:
    if OF_HYDRA.match(word.partition("=")[0]):
        raise ValueError(f"{word}: sets Hydra's own part, in which code can run; leave it out")
    if LEADS_OUT.match(word):
        raise ValueError(f"{word}: leads out of this folder; put a link into it")
    return word


Words = tuple[Annotated[str, AfterValidator(_check_word)], ...]
"""Overrides, KEY=VALUE. Grids come from others, too, so none sets what a sweep calls."""
Cells = Annotated[tuple[str, ...], BeforeValidator(lambda c: (c,) if isinstance(c, str) else c)]
"""Names of cells; one needs no list."""


class SamplerFamily(Settings):
    """Samplers that differ only in their budget."""

    overrides: Words
    budget: str
    """The setting that is the budget: sampler.steps, sampler.tolerance, or one of a part's own."""
    spends: str | int | float | None = None
    """For a rehearsal: the budget to spend in place of the one in the sampler's name."""
    guide: str | None = None
    """Name of its guide, for guidance@sampler.guidance=classifier."""

    def spending(self, budget: str) -> str:
        """Return the word that sets the budget; no evaluations stay none in a rehearsal."""
        return f"{self.budget}={budget if budget == '0' else self.spends or budget}"


class Origin(Settings):
    """Where the weights of a model or guide come from."""

    checkpoint: str | None = None
    """An official checkpoint to import instead of training."""
    of: str | None = None
    """The grid that trains it, under the same name; its overrides are taken from there."""
    weights: str | None = None
    """The denoiser of this grid whose training it shares; the overrides are its process."""

    @property
    def made_by(self) -> Literal["train", "import"] | None:
        """The kind of job that makes it; None if its weights are those of another record."""
        if self.of or self.weights:
            return None
        return "import" if self.checkpoint else "train"


class TrainedEntry(Origin):
    """A model or guide of a grid; a plain list gives the overrides of one without a checkpoint."""

    overrides: Words = ()
    starts_from: str | None = Field(default=None, exclude_if=lambda name: name is None)
    """The model of this grid from whose weights its training starts."""
    average_of: str | None = Field(default=None, exclude_if=lambda name: name is None)
    """The model of this grid in whose training it is made, with `average` as `training.average`."""
    average: Any = Field(default=None, exclude_if=lambda average: average is None)
    gallery: Annotated[str | None, FREE] = Field(default=None, exclude_if=lambda name: name is None)
    """The sampler of its images, if it is not that of the grid's `gallery`."""

    @model_validator(mode="before")
    @classmethod
    def _from_overrides(cls, content: Any) -> Any:
        return {"overrides": content} if isinstance(content, list | tuple) else content


class Seeds(Settings):
    """Seeds that multiply a grid's models and cells, named by `seeded`."""

    training: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """`training.seed` of each model that the grid trains; if there is none, its own."""
    sampling: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Seeds of the samples; the first is the grid's `seed`."""

    @field_validator("training", "sampling")
    @classmethod
    def _are_different(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"each seed only once, not {', '.join(map(str, seeds))}")
        return seeds


def check_name(kind: str, name: str) -> None:
    """Raise ValueError if a grid, or a part of a grid, cannot have this name."""
    if not NAME.fullmatch(name):
        raise ValueError(
            f"{kind} {name!r}: a name begins with a letter, and has only letters (a-z, A-Z), "
            "digits and . _ - in it, none 19 times in a row"
        )


def _check_known(what: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise ValueError(f"{what} {name!r}; there are: {', '.join(known)}")


def seeded(name: str, seed: int, first: int) -> str:
    """Return the name of a model or a sampler with a seed; the first seed keeps the plain name."""
    return name if seed == first else f"{name}-seed{seed}"


# -- tables and claims ----------------------------------------------------------------------------

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


def _metric_name(word: str) -> str:
    if "@" not in word or PLACEHOLDER.search(word):
        return word
    from psld.metrics.named import metric_name  # It imports Hydra.

    try:
        return metric_name(word)
    except UserError as error:
        raise ValueError(f"{error}".removeprefix("metric=")) from None


MetricName = Annotated[str, AfterValidator(_metric_name)]
"""A config of configs/metric, or MEASURE@EXTRACTOR, of which the name is taken."""


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


def merged(parts: Iterable[EntryPart], fields: dict[str, str], where: str) -> Shown:
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
            return merged(parts, row.fields | column.fields, where)

        return [[entry(row, column) for column in self.columns] for row in self.rows]

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
                merged((defaults, self.cell, side), fields, where)
                for side in (self.smaller, self.larger)
            )
            kinds = {(side.metric, side.samples, side.show) for side in (smaller, larger)}
            if len(kinds) > 1:
                raise ValueError(f"{where}: compare one metric of equal numbers of samples")
            pairs.append((", ".join(fields.values()), smaller, larger))
        return pairs


# -- the file -------------------------------------------------------------------------------------


class GridFile(Settings):
    title: str = ""
    question: str = ""
    """The question that the grid answers, in a few sentences for readers of the page."""
    defaults: Words = ()
    """Overrides that all models share."""
    metric: MetricName = Field(min_length=1)
    """The metric of all entries that set no other: its name in configs/metric, or
    MEASURE@EXTRACTOR, each a kind or such a name."""
    samples: int = Field(ge=3)
    """Samples per cell, unless a table sets another number. Fewer than 3 have no interval."""
    shard_size: int = Field(ge=1)
    shards_per_job: Annotated[int, FREE] = Field(10, ge=1)
    """Shards that one job makes; changing it resamples nothing."""
    batch_size: Annotated[int, FREE] = Field(ge=1)
    """Images per network evaluation when sampling; changes speed and memory, never the images."""
    seed: int = Field(0, ge=0)
    """Seed of all samples: the same noise for every cell."""
    seeds: Seeds = Seeds()
    """More seeds than one: tables then show means over them."""
    gallery: Annotated[str, FREE]
    """The sampler, with its budget, whose images are shown for each model."""
    models: dict[str, TrainedEntry]
    guides: dict[str, TrainedEntry] = Field(default_factory=dict)
    """Noise-conditional guides for samplers; `defaults` do not apply to them."""
    samplers: dict[str, SamplerFamily]
    labels: dict[str, str] = Field(default_factory=dict)
    """Words for models and samplers in figures, by name; else the name stands there."""
    figures: Annotated[dict[str, Cells], FREE] = Field(default_factory=dict)
    """Pictures of cells, MODEL/SAMPLER-BUDGET, by name: one cell, such as inpainted images, or a
    list of cells that are compared, a row each. The cells need not be in a table."""
    tables: dict[str, Table]
    claims: tuple[Claim, ...] = ()
    """The comparisons of the paper; their numbers are in the tables."""

    @property
    def figure_cells(self) -> list[tuple[str, str]]:
        return [(figure, cell) for figure, cells in self.figures.items() for cell in cells]

    @model_validator(mode="after")
    def _entries_are_cells(self) -> "GridFile":
        for name, table in self.tables.items():
            for row, entries in zip(table.rows, self.shown[name], strict=True):
                for entry in entries if not row.literature else ():
                    where = f"table {table.title!r}, row {row.label}: "
                    _check_known(f"{where}unknown model", entry.model, self.models)
                    _check_known(f"{where}unknown sampler", entry.sampler, self.samplers)
        samples = max([self.samples, *(shown.samples for shown in self.cells_shown)])
        if samples > SHARDS * self.shard_size:
            raise ValueError(f"shard_size: {samples} samples are more than {SHARDS} shards")
        for claim, pairs in zip(self.claims, self.pairs, strict=True):
            for side in (side for _, *sides in pairs for side in sides):
                if side not in self.cells_shown:
                    raise ValueError(
                        f"claim {claim.claim!r}: no table has the {side.show} of {side.cell} by "
                        f"{side.metric} of {side.samples} samples"
                    )
        for figure, cell in self.figure_cells:
            model, _, sampler = cell.partition("/")
            if self.split(sampler) is None:
                raise ValueError(
                    f"figures.{figure}: {cell!r} is not MODEL/SAMPLER-BUDGET; "
                    f"the samplers are: {', '.join(self.samplers)}"
                )
            _check_known(f"figures.{figure}: unknown model", model, self.models)
        galleries = {f"models.{name}.gallery": each.gallery for name, each in self.models.items()}
        for key, sampler in ({"gallery": self.gallery} | galleries).items():
            _check_known(f"{key}: no cell has the sampler", sampler or self.gallery, self.budgets)
        return self

    @model_validator(mode="after")
    def _names_are_plain_and_models_have_one_source(self) -> "GridFile":
        samplers = [*self.samplers, *self.budgets]
        named = {"model": self.models, "guide": self.guides, "sampler": samplers}
        for kind, names in (named | {"table": self.tables, "figure": self.figures}).items():
            for name in names:
                check_name(kind, name)
        for name, guide in self.guides.items():
            for key in ("of", "weights", "starts_from", "average_of"):
                if getattr(guide, key):
                    raise ValueError(f"guides.{name}.{key}: is for models; give the overrides")
        for name, entry in self.models.items():
            if entry.weights and entry.checkpoint:
                raise ValueError(f"models.{name}: weights and checkpoint: give one of them")
            if entry.weights:
                trained = [each for each in self.models if not self.models[each].weights]
                _check_known(f"models.{name}.weights: unknown model", entry.weights, trained)
            if entry.starts_from and (entry.weights or entry.checkpoint):
                raise ValueError(f"models.{name}: starts_from is for a model that is trained here")
            if entry.starts_from:
                where = f"models.{name}.starts_from: unknown model"
                _check_known(where, entry.starts_from, self.models)
            if (entry.average_of is None) != (entry.average is None):
                raise ValueError(f"models.{name}: average_of and average need each other")
            if entry.average_of:
                if entry.overrides or entry.starts_from or entry.made_by != "train":
                    raise ValueError(f"models.{name}: average_of: give it and average, no more")
                where, others = f"models.{name}.average_of: no training of a model", self.models
                trained = (each for each in others if others[each].made_by == "train")
                known = [each for each in trained if not others[each].average_of]
                _check_known(where, entry.average_of, known)
        return self

    @model_validator(mode="after")
    def _labels_and_seeds_tell_apart(self) -> "GridFile":
        for name in self.labels:
            _check_known("labels: unknown model or sampler", name, [*self.models, *self.samplers])
        for names in (self.models, self.samplers):
            for label, times in Counter(map(self.label, names)).items():
                if times > 1:
                    raise ValueError(f"labels: two are called {label!r}")
        if self.seeds.sampling[:1] not in ((), (self.seed,)):
            raise ValueError(f"seeds.sampling: its first is seed, which is {self.seed}")
        names = Counter(chain.from_iterable(each.values() for each in self.names.values()))
        if twice := [name for name, times in names.items() if times > 1]:
            raise ValueError(f"seeds.training: two models are called {twice[0]}")
        return self

    def label(self, name: str) -> str:
        """Return what figures call a model or a sampler."""
        return self.labels.get(name, name)

    @cached_property
    def names(self) -> dict[str, dict[int | None, str]]:
        """The names of each model by training seed; None: it is not trained with the grid's."""
        names, seeds = {}, self.seeds.training
        for model, entry in self.models.items():
            trained = self.models[entry.weights] if entry.weights else entry
            has_seeds = seeds and not (trained.checkpoint or trained.of)
            several = {seed: seeded(model, seed, seeds[0]) for seed in seeds}
            names[model] = several if has_seeds else {None: model}
        return names

    def with_seed(self, name: str, seed: int | None) -> str:
        """Return the name of a model, or MODEL/SAMPLER-BUDGET, in the training with a seed."""
        model, slash, sampler = name.partition("/")
        return self.names.get(model, {}).get(seed, model) + slash + sampler

    @cached_property
    def trainings(self) -> dict[str, TrainedEntry]:
        """All models with all their seeds, by name."""
        trainings = {}
        for model, entry in self.models.items():
            for seed, name in self.names[model].items():
                has_its_own = seed is not None and not (entry.weights or entry.average_of)
                own = [f"training.seed={seed}"] if has_its_own else []
                changes: dict[str, Any] = {"overrides": (*entry.overrides, *own)}
                for key in ("weights", "starts_from", "average_of"):
                    other = getattr(entry, key)
                    changes[key] = other and self.with_seed(other, seed)
                trainings[name] = entry.model_copy(update=changes)
        return trainings

    def cell_keys(self, shown: Shown) -> list[tuple[str, str, int]]:
        """Return model, sampler with budget, and sampling seed of each cell of an entry."""
        models, sampler = self.names[shown.model].values(), f"{shown.sampler}-{shown.budget}"
        seeds = self.seeds.sampling or (self.seed,)
        return [(model, sampler, seed) for model in models for seed in seeds]

    @cached_property
    def shown(self) -> dict[str, list[list[Shown]]]:
        """What the entries of each table show, row by row. Raises ValueError if one has no cell."""
        return {name: table.shown(self._defaults) for name, table in self.tables.items()}

    @cached_property
    def cells_shown(self) -> dict[Shown, None]:
        """What the entries of all tables show, each once, but for literature."""
        rows = chain.from_iterable(self.shown.values())
        return dict.fromkeys(shown for row in rows for shown in row if shown.model)

    @cached_property
    def pairs(self) -> list[list[tuple[str, Shown, Shown]]]:
        return [claim.pairs(self._defaults) for claim in self.claims]

    @property
    def _defaults(self) -> EntryPart:
        return EntryPart(metric=self.metric, samples=self.samples, show="value")

    def overrides(self, model: str) -> tuple[str, ...]:
        """Return all overrides of a model; those of another grid's model are already complete."""
        entry = self.trainings[model]
        if entry.weights:
            shared = self.overrides(entry.weights)
            kept = (word for word in shared if not word.startswith(("process=", "process.")))
            return (*kept, *entry.overrides)
        if entry.average_of:
            own = ("training.average=", "training.average.")
            kept = (w for w in self.overrides(entry.average_of) if not w.startswith(own))
            return (*kept, f"training.average={in_hydra(entry.average)}")
        init = [f"init.model={entry.starts_from}"] if entry.starts_from else []
        return entry.overrides if entry.of else (*self.defaults, *entry.overrides, *init)

    @cached_property
    def budgets(self) -> dict[str, tuple[str, str]]:
        """Family and budget of the samplers of all tables and figures, by FAMILY-BUDGET."""
        shown = {f"{s.sampler}-{s.budget}": (s.sampler, s.budget) for s in self.cells_shown}
        pictured = (cell.partition("/")[2] for _, cell in self.figure_cells)
        return shown | {name: pair for name in pictured if (pair := self.split(name))}

    def split(self, sampler: str) -> tuple[str, str] | None:
        """Return family and budget of SAMPLER-BUDGET; None if no family has this name."""
        families = [family for family in self.samplers if sampler.startswith(f"{family}-")]
        family = max(families, key=len, default=None)
        return (family, sampler.removeprefix(f"{family}-")) if family else None
