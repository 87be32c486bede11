"""What other code of psld has made is counted, and makes nothing again."""

import pytest

from psld.evaluation.results import CellResult, Weights
from psld.report.table import made_by_other_code
from psld.training.manifest import read_manifest
from psld.utils.code import MAKE_IMAGES, MEASURE, PACKAGE, _files_of, package_code
from tests.commands import call, succeeded

TRAINS, MEASURES = package_code(*MAKE_IMAGES), package_code(*MAKE_IMAGES, *MEASURE)


def result(
    cell: str, code: str | None, trained_by: str | None, weights: str = "w", **more
) -> CellResult:
    model = Weights.model_construct(weights_sha256=weights, code=trained_by)
    return CellResult.model_construct(kept_sha256=cell, code=code, model=model, **more)


@pytest.mark.parametrize(
    ("results", "note"),
    [
        ([("a", MEASURES, TRAINS)], []),
        ([("a", None, None)], []),
        ([("a", "other", TRAINS), ("b", "other", TRAINS)], ["2 cells"]),
        ([("a", MEASURES, "other"), ("b", MEASURES, "other")], ["1 model"]),
        ([("a", "other", "other", "v"), ("b", MEASURES, "other", "w")], ["2 models, 1 cell"]),
    ],
)
def test_models_and_cells_are_counted_once(results, note):
    said = [f"Made by other code of psld than that here: {each}." for each in note]
    assert list(made_by_other_code(result(*each) for each in results)) == said


def test_samples_and_guides_of_other_code_are_counted():
    guide = Weights.model_construct(weights_sha256="g", code="other")
    found = result("a", MEASURES, TRAINS, images_code=(TRAINS, "other"), guide=guide)
    [said] = made_by_other_code([found, result("b", MEASURES, TRAINS, images_code=(TRAINS,))])
    assert said.endswith(": 1 guide, 1 cell.")


def test_what_draws_noise_is_of_the_code_that_makes_images():
    files = {str(file.relative_to(PACKAGE)) for file in _files_of(MAKE_IMAGES)}
    assert {"utils/randomness.py", "utils/device.py", "diffusion/loop.py"} < files


def test_a_model_and_its_shards_say_by_which_code(model, starts, tmp_path, monkeypatch):
    assert read_manifest(model).code == TRAINS
    sample = ("sample", f"model={model}", "sampler.steps=3", "shard_size=2", "output=samples")
    assert "other code" not in succeeded(call(tmp_path, *sample)).stdout
    monkeypatch.setattr("psld.sampling.sample.package_code", lambda *rooms: "0" * 64)
    kept = succeeded(call(tmp_path, *sample)).stdout
    assert f"made by other code of psld ({TRAINS[:12]}, now 000000000000)" in kept
    assert "shard 0: kept" in kept
