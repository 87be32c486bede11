"""The digests of records: every setting that decides a result changes them, and no other does."""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Annotated, Any

import pytest
from pydantic import BaseModel

from psld.config.settings import Neutral
from psld.diffusion.samplers import EMSettings
from psld.grid.cache import load_grid
from psld.grid.records import DatasetRecord
from psld.grid.rows import decisive_content
from psld.models.recipe import ExponentialAverage
from psld.models.settings import Init
from tests.grid.digests import DIGESTS, GRIDS, differences, digests_of
from tests.grid.mine import file_with

pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")


def edits(settings: BaseModel, prefix: str = "") -> Iterator[tuple[str, BaseModel]]:
    """Yield the name of each setting, and the settings with another value of it."""
    for key, value in settings:
        if key == "kind":  # of several groups of settings: it comes with others
            continue
        inner = [(f"{prefix}{key}", another(key, value))]
        if isinstance(value, BaseModel):
            inner = edits(value, f"{prefix}{key}.")
        for name, edited in inner:
            yield name, settings.model_copy(update={key: edited})


def another(key: str, value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int() | float():
            return 2 * value or 1
        case tuple():
            return (*value, 1)
    others = {"micro_batch": 1, "average": ExponentialAverage(), "init": Init(model="other")}
    return others.get(key, "another")


def undecided(settings: BaseModel, digest: Callable[[Any], str]) -> set[str]:
    """The settings that do not change the digest."""
    before = digest(settings)
    return {name for name, edited in edits(settings) if digest(edited) == before}


REPORTS = ("checkpoint_every", "log_every", "preview_every")


@pytest.mark.parametrize("kind", ["models", "guides"])
def test_a_training(demo, kind):
    record = getattr(demo, kind)["psld-0.02"]
    kept = {"name", "grid_name", "data", "output", "runs", "device", "averages"}
    kept |= {"logger", "dataset.source.code"}
    kept |= {f"training.{key}" for key in ("compile", "micro_batch", *REPORTS)}
    kept |= {f"wandb.{key}" for key in ("mode", "project", "entity")}
    assert undecided(record.settings, lambda own: type(record)(settings=own).digest) == kept


def test_a_dataset(paper):
    settings = paper.datasets["cifar10"].settings
    kept = {"output", "replace", "dataset.name", "dataset.flip"}
    kept |= {"dataset.source.root", "dataset.source.download"}
    assert (
        undecided(settings, lambda own: DatasetRecord.model_construct(settings=own).job.digest)
        == kept
    )


@pytest.mark.parametrize(
    ("job", "decided"),
    [("extractor_job", set()), ("reference_job", {"metric.truncated_reference"})],
)
def test_an_extractor_and_its_reference(demo, job, decided):
    features = demo.features["digits/fd-classifier"]
    names = {name for name, _ in edits(features.reference)}
    extractor = {name for name in names if name.startswith("metric.extractor.")}

    def digest(reference: Any) -> str:
        return getattr(features.model_copy(update={"reference": reference}), job).digest

    assert names - undecided(features.reference, digest) == extractor | decided
    assert len(extractor) > 5


def test_a_cell(demo):
    cell = demo.cells["psld-0.02/guide-40"]
    kept = {"family", "budget", "guide"}  # names
    kept |= {f"run.{key}" for key in ("batch_size", "compile", "device")}
    assert undecided(cell.sampler, lambda own: replace(cell, sampler=own).digest) == kept
    [measurement] = cell.measurements
    kept = {"metric.batch_size", "metric.better"}  # its measure says which way is better
    assert (
        undecided(measurement, lambda own: replace(cell, measurements=(own,)).evaluation_digest)
        == kept
    )
    another_guide = demo.guides["psld-0.02"].model_copy(update={"digest": "another"})
    for changes in ({"model": demo.models["cld"]}, {"guide": another_guide}):
        changed = replace(cell, **changes)
        assert changed.digest != cell.digest
        assert changed.evaluation_digest != cell.evaluation_digest


@pytest.mark.parametrize(
    ("changes", "digests"),
    [
        ({"batch_size": 7, "shards_per_job": 1, "title": "Another"}, []),
        ({"samples": 500}, ["evaluation_digest"]),
        ({"metric": "kd-classifier"}, ["evaluation_digest"]),
        ({"shard_size": 100}, ["digest", "evaluation_digest"]),
        ({"seed": 1}, ["digest", "evaluation_digest"]),
    ],
)
def test_options_of_a_grid(demo, changes, digests):
    """The parts of the grid, which decide its certificate, have them all."""
    tables = {name: t.model_copy(update={"compare": ()}) for name, t in demo.file.tables.items()}
    edited = file_with(demo, **changes, tables=tables)
    before, after = (grid.cells["cld/em-quadratic-40"] for grid in (demo, edited))
    names = ("digest", "evaluation_digest")
    assert [name for name in names if getattr(before, name) != getattr(after, name)] == digests
    assert decisive_content(edited) != decisive_content(demo)


def test_the_guide_of_a_sampler_is_a_part_of_the_grid(demo):
    unguided = demo.samplers["guide-40"].model_copy(update={"guide": None})
    unguided = replace(demo, samplers=demo.samplers | {"guide-40": unguided})
    assert decisive_content(unguided) != decisive_content(demo)


class Hurried(EMSettings):
    __module__ = "psld.tests"  # so it is no part of one's own, whose code decides
    haste: Annotated[float, Neutral(0.0)] = 0.0


def test_an_option_added_to_a_sampler_changes_no_cell_that_does_not_use_it(demo):
    cell = demo.cells["cld/em-quadratic-40"]

    def digest(haste: float) -> str:
        settings = Hurried(**cell.sampler.settings.model_dump(), haste=haste)
        return replace(cell, sampler=cell.sampler.model_copy(update={"settings": settings})).digest

    assert digest(0.0) == cell.digest
    assert digest(0.5) != cell.digest


LIKE_OTHERS = ("denoiser-rehearsal", "digits-denoiser", "rehearsal", "small-denoiser")
"""Grids that are resolved as others are, each in seconds."""


@pytest.mark.parametrize(
    "name", [pytest.param(g, marks=[pytest.mark.slow] * (g in LIKE_OTHERS)) for g in GRIDS]
)
def test_what_was_made_still_serves(name, resolved):
    """Another digest would train, sample or evaluate again: of the paper, weeks on GPUs.

    After a change that is meant to: `python -m tests.grid.digests`.
    """
    kept = json.loads(DIGESTS.read_text())
    assert list(kept) == GRIDS
    with contextlib.chdir(resolved):
        changed = differences(kept[name], digests_of(load_grid(name)))
    assert not changed, f"grid {name}: " + ", ".join(changed)
