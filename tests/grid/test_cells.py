"""The cells of a grid: their files, their jobs, their words, and the networks they use."""

from dataclasses import replace

import pytest

from psld.config.compose import compose_content
from psld.grid.cells import Grid
from psld.grid.members import SamplerFamily
from psld.models.settings import Init
from psld.sampling.named import named_in
from psld.utils.errors import UserError
from psld.utils.files import write_text
from tests.results import write_model_manifest

CELL = "psld-0.02/guide-40"


@pytest.mark.parametrize(
    ("samples", "size", "per_job", "ranges"),
    [
        (1000, 250, 10, [(0, 3)]),
        (1001, 250, 2, [(0, 1), (2, 3), (4, 4)]),
    ],
)
def test_shards_are_as_many_as_the_largest_measurement_needs(demo, samples, size, per_job, ranges):
    cell = demo.cells[CELL]
    changes = {"shard_size": size, "shards_per_job": per_job}
    [one] = cell.measurements
    several = tuple(one.model_copy(update={"samples": n}) for n in (100, samples, 50))
    cell = replace(cell, options=cell.options.model_copy(update=changes), measurements=several)
    assert (cell.ranges, cell.shards) == (ranges, ranges[-1][1] + 1)
    names = [f"{cell.folder}/{first:05d}-{last:05d}.json" for first, last in ranges]
    assert cell.records == names
    shown = replace(cell, measurements=())
    assert (shown.shards, shown.ranges) == (1, [(0, 0)])
    with pytest.raises(UserError, match="no table shows this cell, so it has no metric"):
        _ = shown.evaluate_job


def test_jobs_have_what_the_grid_decides(demo):
    cell = demo.cells[CELL]
    sample, evaluate = cell.sample_job, cell.evaluate_job
    assert (sample.digest, evaluate.digest) == (cell.digest, cell.evaluation_digest)
    networks = ["models/demo/psld-0.02", "guides/demo/psld-0.02"]
    assert [each.folder for each in sample.uses] == networks
    assert sample.uses == evaluate.uses
    for settings in (sample.settings, evaluate.settings):
        assert settings.sampler == cell.sampler.settings
        assert (settings.seed, settings.shard_size) == (cell.seed, 250)
        assert [settings.model, settings.guide] == networks
    assert (sample.settings.first, sample.settings.shards) == (0, cell.shards)
    assert sample.settings.output == evaluate.settings.shards == cell.folder
    assert evaluate.settings.output == cell.result
    assert evaluate.settings.measurements == cell.measurements


@pytest.mark.parametrize(
    "name",
    [CELL, "psld-0.02/inpainting-40", "denoiser-cld/em-quadratic-40", "few-0"],
)
def test_the_words_of_a_cell_compose_it(demo, name):
    cell = next(each for each in demo.cells.values() if each.name.endswith(name))
    cell = replace(cell, options=cell.options.model_copy(update={"batch_size": 7}))
    content = compose_content("sample", [*cell.words, "output=x"], name)
    named = named_in(content, name)
    assert (named.sampler, named.process) == (
        cell.sampler.settings,
        cell.model.settings.sampled_as(),
    )
    keys = ("model", "guide", "shard_size", "batch_size", "shards", "seed")
    job = cell.sample_job.settings
    assert {key: content[key] for key in keys} == {key: getattr(job, key) for key in keys}
    assert (content["data"], content["mnist"]) == (job.data, job.mnist)


def test_a_network_of_another_record_or_of_other_images_is_refused(
    demo: Grid, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    model, other = demo.models["cld"], demo.models["psld-0.02"]
    with pytest.raises(UserError, match=r"models/demo/cld/manifest\.json: no such file"):
        model.check()
    write_model_manifest(tmp_path, demo, "cld", dataset_digest="a" * 64)
    model.check()
    write_text(tmp_path / "data/digits.digest", f"{'a' * 64}\n")
    model.check()
    write_text(tmp_path / "data/digits.digest", f"{'b' * 64}\n")
    said = r"cld/manifest\.json: does not match the grid in its images \(data/digits\.digest\)"
    with pytest.raises(UserError, match=said):
        model.check()
    write_model_manifest(tmp_path, demo, "cld", dataset_digest=None)
    model.check()
    write_model_manifest(tmp_path, demo, "cld", settings=other.settings.model())
    with pytest.raises(UserError, match="does not match the grid in its process; put the grid's"):
        model.check()
    tuned = model.settings.model().model_copy(update={"init": Init(model="demo/cld")})
    write_model_manifest(tmp_path, demo, "cld", settings=tuned)
    with pytest.raises(UserError, match="does not match the grid in its init; put"):
        model.check()
    with pytest.raises(UserError, match="does not match the grid"):
        demo.cells["cld/em-quadratic-40"].sample_job.check()


def test_a_sampler_says_its_budget_by_the_setting_that_it_is(demo):
    cell = demo.cells["cld/em-quadratic-40"]
    for key, said in {"steps": "40 steps", "tolerance": "tolerance 40", "n": "n 40"}.items():
        family = SamplerFamily(overrides=(), budget=f"sampler.{key}")
        options = cell.options.model_copy(update={"samplers": {"em-quadratic": family}})
        assert replace(cell, options=options).budget_in_words == said
    alone = demo.cells["psld-0.02/few-0"]
    assert alone.in_words == ("PSLD Γ = 0.02, own network", "few, 0 steps: the start alone")
