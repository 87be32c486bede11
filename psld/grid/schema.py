"""The schema of configs/grid/NAME.yaml: a grid of models and samplers, its tables and claims.

Templates are expanded before the schema is applied (`psld.grid.reading`).
"""

from collections import Counter
from functools import cached_property
from itertools import chain
from typing import Annotated, Any

from pydantic import Field, model_validator

from psld.config.settings import FREE, Settings, in_hydra
from psld.grid.members import SamplerFamily, Seeds, TrainedEntry
from psld.grid.names import Cells, MetricName, Words, check_known, check_name, seeded
from psld.grid.tables import Claim, EntryPart, Shown, Table


class GridFile(Settings):
    title: str = ""
    question: str = ""
    """The question that the grid answers; a few sentences for readers of the results page."""
    defaults: Words = ()
    """Overrides that all models share."""
    metric: MetricName = Field(min_length=1)
    """The metric of entries that set no metric: a name in configs/metric, or MEASURE@EXTRACTOR.
    Each side of the @ is the name of a part or a name in configs/metric."""
    samples: int = Field(ge=3)
    """Number of samples per cell, unless a table sets a different number. An interval needs at
    least 3 samples."""
    shard_size: int = Field(ge=1)
    """Number of samples per shard. The noise depends on this number, so a change resamples all
    cells."""
    shards_per_job: Annotated[int, FREE] = Field(10, ge=1)
    """Number of shards that one job samples. A change resamples no cell."""
    batch_size: Annotated[int, FREE] = Field(ge=1)
    """Images per network evaluation during sampling. A change affects the speed and the memory, but
    never the images."""
    seed: int = Field(0, ge=0)
    """Seed of all samples. Every cell draws the same noise."""
    seeds: Seeds = Seeds()
    """Seeds for repeated trainings or samplings. Tables then show means over the seeds."""
    gallery: Annotated[str, FREE]
    """The sampler, with its budget, that draws the images shown for each model."""
    models: dict[str, TrainedEntry]
    guides: dict[str, TrainedEntry] = Field(default_factory=dict)
    """Noise-conditional classifiers that guide samplers. `defaults` do not apply to guides."""
    samplers: dict[str, SamplerFamily]
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels of models and samplers in figures, and titles of `figures`. The keys are their names.
    The default label of a model or a sampler is its name."""
    figures: Annotated[dict[str, Cells], FREE] = Field(default_factory=dict)
    """Figures of sampled images. The keys are the names of the figures. A figure shows one cell,
    MODEL/SAMPLER-BUDGET, or compares a list of cells, one row per cell. The cells need not occur in
    a table."""
    tables: dict[str, Table]
    claims: tuple[Claim, ...] = ()
    """Comparisons of numbers in the tables, such as the comparisons that the paper makes."""

    @property
    def figure_cells(self) -> list[tuple[str, str]]:
        return [(figure, cell) for figure, cells in self.figures.items() for cell in cells]

    @model_validator(mode="after")
    def _check_cells(self) -> "GridFile":
        for name, table in self.tables.items():
            for row, entries in zip(table.rows, self.shown[name], strict=True):
                for entry in entries if not row.literature else ():
                    where = f"table {table.title!r}, row {row.label}: "
                    check_known(f"{where}unknown model", entry.model, self.models)
                    check_known(f"{where}unknown sampler", entry.sampler, self.samplers)
            every = chain.from_iterable(self.shown[name])
            values = dict.fromkeys(
                entry for entry in every if entry.model and entry.show == "value"
            )
            for contrast in table.compare:
                where, kinds = f"table {table.title!r}, compare", set()
                for words, part in contrast.entries.items():
                    found = [entry for entry in values if part.fits(entry)]
                    if len(found) != 1:
                        raise ValueError(f"{where} {words!r}: fits {len(found)} entries, not 1")
                    kinds.add((found[0].metric, found[0].samples))
                if len(kinds) > 1:
                    names = ", ".join(contrast.entries)
                    raise ValueError(
                        f"{where} {names}: give one metric of equal numbers of samples"
                    )
        for claim, pairs in zip(self.claims, self.pairs, strict=True):
            for side in (side for _, *sides in pairs for side in sides):
                if side not in self.cells_shown:
                    raise ValueError(
                        f"claim {claim.claim!r}: no table shows the {side.show} of {side.cell} "
                        f"with metric {side.metric} and {side.samples} samples"
                    )
        for figure, cell in self.figure_cells:
            model, _, sampler = cell.partition("/")
            if self.split(sampler) is None:
                raise ValueError(
                    f"figures.{figure}: {cell!r} is not MODEL/SAMPLER-BUDGET; "
                    f"the samplers are: {', '.join(self.samplers)}"
                )
            check_known(f"figures.{figure}: unknown model", model, self.models)
        galleries = {f"models.{name}.gallery": each.gallery for name, each in self.models.items()}
        for key, sampler in ({"gallery": self.gallery} | galleries).items():
            check_known(f"{key}: no cell has the sampler", sampler or self.gallery, self.budgets)
        return self

    @model_validator(mode="after")
    def _check_names_and_sources(self) -> "GridFile":
        samplers = [*self.samplers, *self.budgets]
        named = {"model": self.models, "guide": self.guides, "sampler": samplers}
        for kind, names in (named | {"table": self.tables, "figure": self.figures}).items():
            for name in names:
                check_name(kind, name)
        for name, guide in self.guides.items():
            for key in ("of", "weights", "starts_from", "average_of"):
                if getattr(guide, key):
                    raise ValueError(
                        f"guides.{name}.{key}: only for models; give overrides instead"
                    )
        for name, entry in self.models.items():
            if entry.weights and entry.checkpoint:
                raise ValueError(f"models.{name}: give weights or checkpoint, not both")
            if entry.weights:
                trained = [each for each in self.models if not self.models[each].weights]
                check_known(f"models.{name}.weights: unknown model", entry.weights, trained)
            if entry.starts_from and (entry.weights or entry.checkpoint):
                raise ValueError(
                    f"models.{name}: starts_from: only for a model that this grid trains"
                )
            if entry.starts_from:
                where = f"models.{name}.starts_from: unknown model"
                check_known(where, entry.starts_from, self.models)
            if (entry.average_of is None) != (entry.average is None):
                raise ValueError(f"models.{name}: give both average_of and average, or neither")
            if entry.average_of:
                if entry.overrides or entry.starts_from or entry.made_by != "train":
                    raise ValueError(f"models.{name}: average_of: allows no other key than average")
                where, others = f"models.{name}.average_of: no trained model", self.models
                trained = (each for each in others if others[each].made_by == "train")
                known = [each for each in trained if not others[each].average_of]
                check_known(where, entry.average_of, known)
        return self

    @model_validator(mode="after")
    def _check_labels_and_seeds(self) -> "GridFile":
        for name in self.labels:
            known = [*self.models, *self.samplers, *self.figures]
            check_known("labels: unknown model, sampler or figure", name, known)
        for names in (self.models, self.samplers):
            for label, times in Counter(map(self.label, names)).items():
                if times > 1:
                    raise ValueError(f"labels: two names have the label {label!r}")
        if self.seeds.sampling[:1] not in ((), (self.seed,)):
            raise ValueError(f"seeds.sampling: the first seed must be the grid's seed, {self.seed}")
        names = Counter(chain.from_iterable(each.values() for each in self.names.values()))
        if twice := [name for name, times in names.items() if times > 1]:
            raise ValueError(f"seeds.training: two models are called {twice[0]}")
        return self

    def label(self, name: str) -> str:
        """Return the label of a model or a sampler in figures."""
        return self.labels.get(name, name)

    @cached_property
    def names(self) -> dict[str, dict[int | None, str]]:
        """The names of each model by training seed.

        The seed is None for a model to which `seeds.training` does not apply.
        """
        names, seeds = {}, self.seeds.training
        for model, entry in self.models.items():
            trained = self.models[entry.weights] if entry.weights else entry
            has_seeds = seeds and not (trained.checkpoint or trained.of)
            several = {seed: seeded(model, seed, seeds[0]) for seed in seeds}
            names[model] = several if has_seeds else {None: model}
        return names

    def with_seed(self, name: str, seed: int | None) -> str:
        """Return the name of a model, or of a cell MODEL/SAMPLER-BUDGET, for a training seed."""
        model, slash, sampler = name.partition("/")
        return self.names.get(model, {}).get(seed, model) + slash + sampler

    @cached_property
    def trainings(self) -> dict[str, TrainedEntry]:
        """The models for all training seeds, keyed by name."""
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
        """Return the model, the sampler with its budget, and the seed of each cell of an entry."""
        models, sampler = self.names[shown.model].values(), f"{shown.sampler}-{shown.budget}"
        seeds = self.seeds.sampling or (self.seed,)
        return [(model, sampler, seed) for model in models for seed in seeds]

    @cached_property
    def shown(self) -> dict[str, list[list[Shown]]]:
        """For each table, what its entries show, row by row.

        Raises ValueError if an entry does not specify a cell.
        """
        return {name: table.shown(self._defaults) for name, table in self.tables.items()}

    @cached_property
    def cells_shown(self) -> dict[Shown, None]:
        """What the entries of all tables show, without duplicates and without rows from the
        literature."""
        rows = chain.from_iterable(self.shown.values())
        return dict.fromkeys(shown for row in rows for shown in row if shown.model)

    @cached_property
    def pairs(self) -> list[list[tuple[str, Shown, Shown]]]:
        return [claim.pairs(self._defaults) for claim in self.claims]

    @property
    def _defaults(self) -> EntryPart:
        return EntryPart(metric=self.metric, samples=self.samples, show="value")

    def overrides(self, model: str) -> tuple[str, ...]:
        """Return all overrides of a model, including `defaults` and the overrides of a model whose
        weights it uses.

        For a model of another grid, the overrides of the entry are already complete.
        """
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
        """The family and the budget of each sampler in tables and figures, keyed by
        FAMILY-BUDGET."""
        shown = {f"{s.sampler}-{s.budget}": (s.sampler, s.budget) for s in self.cells_shown}
        pictured = (cell.partition("/")[2] for _, cell in self.figure_cells)
        return shown | {name: pair for name in pictured if (pair := self.split(name))}

    def split(self, sampler: str) -> tuple[str, str] | None:
        """Split FAMILY-BUDGET into the family and the budget. None if no family matches."""
        families = [family for family in self.samplers if sampler.startswith(f"{family}-")]
        family = max(families, key=len, default=None)
        return (family, sampler.removeprefix(f"{family}-")) if family else None
