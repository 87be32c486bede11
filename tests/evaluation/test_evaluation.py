"""The evaluation of images whose features are known, without networks, in milliseconds."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from psld.config.settings import parse
from psld.evaluation.evaluation import (
    Cost,
    GatheredFeatures,
    ImageSource,
    evaluate,
    load_kept,
    save_kept,
)
from psld.evaluation.folders import Basis
from psld.evaluation.results import CellResult
from psld.evaluation.settings import Measurement
from psld.metrics.blocks import assign_blocks, distinct_numbers, share_estimate
from psld.metrics.distances import inception_score
from psld.metrics.extraction import batches_of, gather, gather_moments
from psld.metrics.features import Features, Reference
from psld.metrics.settings import MetricSettings, PrecisionSettings
from psld.sampling.shards import Shard, ShardOrigin
from psld.utils.errors import UserError
from tests.data.formats import random_images
from tests.metrics.test_frechet import random_features

IMAGES = random_images(60, 1, 2, 2)
LABELS = np.arange(60) % 3
TRAIN, TEST, NOISE = (
    Features(random_features(n, 4, seed)) for n, seed in ((80, 1), (50, 2), (9, 3))
)
FACTS = {
    "extractor_test_accuracy": None,
    "reference_samples": 80,
    "floor_samples": 50,
    "reference_sha256": "r",
}


PIXELS = {"extractor": {"kind": "pixels"}, "features": "fd-classifier"}


class Pixels:
    """An extractor of the pixels; its logits select the class min(2, number of bright pixels)."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.sizes.append(len(images))
        values = images.flatten(1).float() / 128 - 1
        bright = (values > 0).sum(dim=1).clamp(max=2)
        return values, torch.nn.functional.one_hot(bright, 3).float()


def metric(measure: str, name: str | None = None, **more: object) -> MetricSettings:
    kinds = {"frechet": "fd", "kernel": "kd"}
    name = name or f"{kinds.get(measure, measure)}-classifier"
    content = {"name": name, "extractor": {"kind": "classifier"}, "features": "fd-classifier"}
    settings = {"kind": measure} | ({"subsets": 2} if measure == "kernel" else {})
    return parse(MetricSettings, content | {"measure": settings} | more, "metric")


def shards(sizes: Sequence[int], guided: bool = False) -> list[Shard]:
    """Shards of the images; shard i took 10 + i evaluations and 1.5 seconds."""
    found, first = [], 0
    for index, size in enumerate(sizes):
        origin = ShardOrigin(weights_sha256="w", sampler_digest="s", seed=0, index=index, size=size)
        part = slice(first, first + size)
        device, labels = f"CPU {index % 2}", LABELS[part] if guided else None
        found.append(Shard(IMAGES[part], origin, 10 + index, 1.5, device, labels))
        first += size
    return found


def measured(
    measurements: Sequence[Measurement], parts: Sequence[Shard | np.ndarray], **given: object
) -> tuple[list[CellResult], Pixels]:
    extractor = Pixels()
    basis = Basis(Reference(TRAIN, TEST, NOISE), lambda split: FACTS, extractor)
    source = ImageSource({}, lambda reference: f"of {reference}", parts, silent=True)
    output = given.pop("output", None)
    source = source._replace(**given)
    found = evaluate(source, {"fd-classifier": basis}, measurements, output=output)
    return list(found.results), extractor


def value_of(metric: MetricSettings, x: Features, reference: Reference, blocks: int = 20) -> float:
    reference = reference._replace(compared=metric.reference_split)
    found = metric.measure.estimate(x, reference, x.blocks(blocks), "cpu")
    return getattr(found, "estimate", found).value


def values_of(images: np.ndarray) -> Features:
    return Features(*Pixels()(torch.from_numpy(images)))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch) -> None:
    """Work in an empty folder, because .cache of a checkout has the values of other references."""
    monkeypatch.chdir(tmp_path)


def test_an_extractor_sees_as_many_images_as_its_metrics_measure():
    """The other metrics of the cell may measure many more images."""
    few, many = Pixels(), Pixels()
    reference = Reference(TRAIN, TEST, NOISE)
    bases = {n: Basis(reference, lambda split: FACTS, e) for n, e in (("few", few), ("many", many))}
    pairs = ("few", 20), ("many", 25), ("few", 15), ("many", 45)
    asked = [
        Measurement(metric=metric("frechet").model_copy(update={"features": name}), samples=n)
        for name, n in pairs
    ]
    source = ImageSource({}, lambda r: f"of {r}", shards([30, 30]), silent=True)
    found = evaluate(source, bases, asked).results
    assert (sum(few.sizes), sum(many.sizes)) == (20, 45)
    assert [result.samples for result in found] == [20, 25, 15, 45]


def test_each_measurement_uses_its_first_images_and_the_cost_of_their_shards():
    several = [
        Measurement(metric=metric("frechet", batch_size=7), samples=45),
        Measurement(metric=metric("precision"), samples=20),
        Measurement(metric=metric("kernel"), samples=21),
    ]
    results, extractor = measured(several, shards([20, 20, 20]))
    assert sum(extractor.sizes) == 45, "no image beyond the last is read"
    reference = Reference(TRAIN, TEST, NOISE)
    for each, result in zip(several, results, strict=True):
        expected = each.metric.evaluate(values_of(IMAGES[: each.samples]), reference).estimate
        assert result.estimate.value == pytest.approx(expected.value, rel=1e-9)
        assert result.samples == each.samples
        assert result.record == each.digest("of r")
    assert [result.nfe for result in results] == [
        pytest.approx((20 * 10 + 20 * 11 + 5 * 12) / 45),
        10,
        pytest.approx((20 * 10 + 20 * 11) / 40),
    ]
    assert [result.sampling_seconds for result in results] == [4.5, 1.5, 3.0]
    assert [result.sampling_device for result in results] == [
        "CPU 0, CPU 1",
        "CPU 0",
        "CPU 0, CPU 1",
    ]
    assert [result.class_accuracy for result in results] == [None] * 3


def test_guided_samples_are_counted_if_their_class_is_recognized():
    results, _ = measured(
        [
            Measurement(metric=metric("precision"), samples=50),
            Measurement(metric=metric("frechet", "fd-pixels", **PIXELS), samples=50),
        ],
        shards([20, 20, 20], guided=True),
    )
    answers = values_of(IMAGES[:50]).logits.argmax(dim=1).numpy()
    result, without = results
    assert without.class_accuracy is None, "its network knows no classes"
    assert result.class_accuracy == share_estimate(
        torch.from_numpy(answers == LABELS[:50]), assign_blocks(50)
    )
    assert 0.1 < result.class_accuracy.value < 0.9


@pytest.mark.parametrize("kind", ["frechet", "kernel", "memorization"])
def test_real_images_and_noise_give_each_metric_its_scale(kind):
    [result], _ = measured([Measurement(metric=metric(kind), samples=60)], [IMAGES])
    reference = Reference(TRAIN, TEST, NOISE)
    for found, images in ((result.floor, TEST), (result.noise, NOISE)):
        assert found == pytest.approx(value_of(metric(kind), images, reference, blocks=2))
    assert (result.nearest is not None) == (kind == "memorization")
    assert result.reference_estimate is None
    if kind != "memorization":
        tested = metric(kind, reference_split="test")
        [result], _ = measured([Measurement(metric=tested, samples=60)], [IMAGES])
        assert result.floor == pytest.approx(value_of(tested, TRAIN, reference, blocks=2))
        assert result.value == pytest.approx(value_of(tested, values_of(IMAGES), reference))
        assert result.held_out == "training split"


def test_metrics_that_share_a_reference_have_the_same_values_as_alone():
    """The cached values of a reference depend on the split, on the neighbors and on the metric."""
    near, far = (
        metric("precision").model_copy(update={"measure": PrecisionSettings(neighbors=k)})
        for k in (1, 5)
    )
    metrics = near, far, far.model_copy(update={"reference_split": "test"})
    asked = [Measurement(metric=each, samples=60) for each in metrics]
    together, _ = measured(asked, [IMAGES])
    assert together == [measured([each], [IMAGES])[0][0] for each in asked]
    assert len({(each.value, each.floor) for each in together}) == 3


def test_a_void_memorization_does_not_affect_the_other_metrics_of_a_cell(monkeypatch):
    """For external images, which have no table, the evaluation is refused instead."""
    monkeypatch.setattr(f"{__name__}.TEST", Features(TRAIN.values[:10]))
    asked = [Measurement(metric=metric(kind), samples=60) for kind in ("memorization", "recall")]
    (memorized, recalled), _ = measured(asked, [IMAGES])
    assert memorized.void.startswith("100.0% of the test images equal a training image")
    assert len(memorized.nearest) == 8, "which a figure shows"
    assert recalled.void is None
    with pytest.raises(UserError, match=r"^memorization-classifier: 100\.0% of the"):
        measured(asked, [IMAGES], numbers=distinct_numbers(IMAGES))


def test_memorization_has_no_reference_estimate_and_splits_depend_on_samples():
    numbers = distinct_numbers(IMAGES)
    memorized = [Measurement(metric=metric("memorization"), samples=60)]
    [result], _ = measured(memorized, [IMAGES], numbers=numbers)
    assert result.reference_estimate is None
    assert len(result.nearest) == 8
    extractor = {"extractor": {"kind": "inception"}, "features": "fid"}
    score = metric("inception-score", "inception-score", **extractor)
    for count in (60, 7):
        few = values_of(IMAGES[:count])
        splits = min(10, count // 2)
        expected = inception_score(few.logits, splits, few.blocks(20))
        assert score.evaluate(few, Reference(TRAIN, TEST, NOISE)).estimate.value == expected.value


@pytest.mark.parametrize("kind", ["frechet", "precision", "recall"])
def test_the_reference_estimate_is_the_exchanged_comparison(kind):
    """This applies only to external images. Precision becomes recall, and copies are ignored."""
    copied = np.concatenate([IMAGES[:30], IMAGES[:30]])
    numbers = distinct_numbers(copied)
    assert numbers.tolist() == [*range(30), *range(30)]
    [result], _ = measured(
        [Measurement(metric=metric(kind), samples=60)], [copied], numbers=numbers
    )
    assert result.estimate.copies == 30
    reverse = {"precision": "recall", "recall": "precision"}.get(kind, kind)
    samples = replace(values_of(copied), numbers=None)
    expected = metric(reverse).evaluate(TRAIN, Reference(samples, None, None)).estimate
    assert result.reference_estimate.value == pytest.approx(expected.value)
    assert result.reference_estimate.block_samples == expected.block_samples
    assert result.reference_estimate.value == pytest.approx(result.value)


@pytest.mark.parametrize("copies", [0, 20])
def test_results_of_moments_equal_results_of_kept_features(copies, tmp_path, monkeypatch):
    """Features are kept for keep=4, and only moments for keep=3, in parts of 8 images."""
    monkeypatch.setattr("psld.metrics.extraction.WAITING", 7)
    images, real = IMAGES.copy(), random_images(90, 1, 2, 2, seed=1)
    images[:copies], real[:copies] = images[0], real[0]
    numbers, of_real = distinct_numbers(images), distinct_numbers(real)
    given = Pixels(), list(batches_of(real, 4)), "reference"
    features = replace(gather(*given, len(real), silent=True), numbers=of_real)
    moments = gather_moments(*given, assign_blocks(of_real), of_real, silent=True)
    settings = metric("frechet", "fd-pixels", batch_size=4, **PIXELS)
    asked = [Measurement(metric=settings, samples=len(images))]
    source = ImageSource({}, lambda reference: f"of {reference}", [images], numbers, silent=True)
    results, totals = [], []
    for keep, train in ((4, features), (3, moments)):
        if keep == 3:
            monkeypatch.delattr(Features, "moments")  # Raises an error if features are kept.
        basis = Basis(Reference(train, None, None), lambda split: FACTS, Pixels())
        output = str(tmp_path / "x.json")
        results += evaluate(source, {"fd-classifier": basis}, asked, "cpu", output, keep).results
        kept = load_kept(tmp_path / "x.safetensors", results[-1].kept_sha256)
        totals += [each.total for each in (kept.samples | kept.moments).values()]
    for name in ("estimate", "reference_estimate"):
        whole, streamed = (getattr(result, name) for result in results)
        assert streamed.value == pytest.approx(whole.value, rel=1e-10)
        assert streamed.without_block == pytest.approx(whole.without_block, rel=1e-10)
        assert streamed.block_samples == whole.block_samples
        assert streamed.copies == whole.copies == max(copies - 1, 0)
    torch.testing.assert_close(*(each.mean for each in totals), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(*(each.covariance for each in totals), rtol=1e-10, atol=1e-12)


def test_features_are_kept_up_to_a_number_of_them_and_come_back(tmp_path):
    logits = torch.eye(5)
    four, three = Features(TRAIN.values[:5], logits), Features(random_features(7, 3, 1))
    samples = {("fd-a", 5): four, ("fd-b", 7): three}
    gathered = GatheredFeatures(samples, torch.arange(5), [Cost(5, 7, 0.5, "CPU")])
    for largest, names in ((4, [*samples]), (3, [("fd-b", 7)])):
        sha256 = save_kept(tmp_path / "x", gathered, largest)
        kept = load_kept(tmp_path / "x", sha256)
        assert sorted(kept.samples) == names
        assert torch.equal(kept.labels, gathered.labels)
        assert kept.costs == gathered.costs
        assert all(torch.equal(kept.samples[n].values, samples[n].values) for n in names)
    wrong = replace(gathered, samples={("fd-a", 6): four})
    with pytest.raises(UserError, match="x: fd-a: has features of 5 samples, not 6"):
        load_kept(tmp_path / "x", save_kept(tmp_path / "x", wrong, 4))
    with pytest.raises(UserError, match="differs from the recorded evaluation file"):
        load_kept(tmp_path / "x", "another")
