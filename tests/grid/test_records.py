"""The digests of records: they change with all settings that affect a result, and no others."""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Annotated, Any

import pytest
from pydantic import BaseModel

from psld.config.settings import Neutral
from psld.diffusion.samplers import EMSettings
from psld.diffusion.settings import CosineBeta
from psld.grid.cache import load_grid
from psld.grid.records import DatasetRecord
from psld.grid.rows import decisive_content
from psld.models.recipe import ExponentialAverage
from psld.models.settings import Init
from tests.grid.digests import DIGESTS, GRIDS, differences, digests_of
from tests.grid.mine import file_with

pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")


def edits(settings: BaseModel, prefix: str = "") -> Iterator[tuple[str, BaseModel]]:
    """Yield the name of each setting, and the settings with a changed value for it."""
    for key in type(settings).model_fields:
        value = getattr(settings, key)
        if key in ("kind", "dtype", "decode"):  # They need other values of other settings.
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
        case int() if key == "channels":
            return 4 - value
        case int() | float():
            return 2 * value or 1
        case tuple():
            return (*value, 1)
    others = {"micro_batch": 1, "average": ExponentialAverage(), "init": Init(model="other")}
    others["beta"] = CosineBeta()
    return others.get(key, "another")


def undecided(settings: BaseModel, digest: Callable[[Any], str]) -> set[str]:
    """Return the names of the settings that do not change the digest."""
    before = digest(settings)
    return {name for name, edited in edits(settings) if digest(edited) == before}


REPORTS = ("checkpoint_every", "log_every", "preview_every")


@pytest.mark.parametrize("kind", ["models", "guides"])
def test_settings_that_do_not_change_a_training(demo, kind):
    record = getattr(demo, kind)["psld-0.02"]
    kept = {"name", "grid_name", "data", "output", "runs", "device", "averages"}
    kept |= {"logger", "dataset.source.code"}
    kept |= {f"training.{key}" for key in ("compile", "micro_batch", *REPORTS)}
    kept |= {f"wandb.{key}" for key in ("mode", "project", "entity")}
    assert undecided(record.settings, lambda own: type(record)(settings=own).digest) == kept


def test_settings_that_do_not_change_a_dataset(paper):
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
def test_settings_that_change_an_extractor_and_its_reference(demo, job, decided):
    features = demo.features["digits/fd-classifier"]
    names = {name for name, _ in edits(features.reference)}
    extractor = {name for name in names if name.startswith("metric.extractor.")}

    def digest(reference: Any) -> str:
        return getattr(features.model_copy(update={"reference": reference}), job).digest

    assert names - undecided(features.reference, digest) == extractor | decided
    assert len(extractor) > 5


def test_settings_that_do_not_change_a_cell(demo):
    cell = demo.cells["psld-0.02/guide-40"]
    kept = {"family", "budget", "guide"}  # names
    kept |= {f"run.{key}" for key in ("batch_size", "compile", "device")}
    assert undecided(cell.sampler, lambda own: replace(cell, sampler=own).digest) == kept
    [measurement] = cell.measurements
    kept = {"metric.batch_size", "metric.better"}  # the measure determines the direction
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
def test_grid_options_change_only_the_digests_that_depend_on_them(demo, changes, digests):
    """All of these options are in the content that a certificate compares."""
    tables = {name: t.model_copy(update={"compare": ()}) for name, t in demo.file.tables.items()}
    edited = file_with(demo, **changes, tables=tables)
    before, after = (grid.cells["cld/em-quadratic-40"] for grid in (demo, edited))
    names = ("digest", "evaluation_digest")
    assert [name for name in names if getattr(before, name) != getattr(after, name)] == digests
    assert decisive_content(edited) != decisive_content(demo)


def test_guide_of_a_sampler_is_part_of_the_grid(demo):
    unguided = demo.samplers["guide-40"].model_copy(update={"guide": None})
    unguided = replace(demo, samplers=demo.samplers | {"guide-40": unguided})
    assert decisive_content(unguided) != decisive_content(demo)


class Hurried(EMSettings):
    __module__ = "psld.tests"  # A custom part would add its code to the digest.
    haste: Annotated[float, Neutral(0.0)] = 0.0


def test_new_sampler_option_with_a_neutral_value_changes_no_digest(demo):
    cell = demo.cells["cld/em-quadratic-40"]

    def digest(haste: float) -> str:
        settings = Hurried(**cell.sampler.settings.model_dump(), haste=haste)
        return replace(cell, sampler=cell.sampler.model_copy(update={"settings": settings})).digest

    assert digest(0.0) == cell.digest
    assert digest(0.5) != cell.digest


LIKE_OTHERS = ("denoiser-rehearsal", "digits-denoiser", "rehearsal", "small-denoiser")
"""Grids that are similar to other grids. Resolving takes seconds for each of them."""


@pytest.mark.parametrize(
    "name", [pytest.param(g, marks=[pytest.mark.slow] * (g in LIKE_OTHERS)) for g in GRIDS]
)
def test_digests_have_not_changed(name, resolved):
    """A changed digest repeats trainings, samples or evaluations, for the paper weeks on GPUs.

    After an intended change, run `python -m tests.grid.digests`.
    """
    kept = json.loads(DIGESTS.read_text())
    assert list(kept) == GRIDS
    with contextlib.chdir(resolved):
        changed = differences(kept[name], digests_of(load_grid(name)))
    assert not changed, f"grid {name}: " + ", ".join(changed)
