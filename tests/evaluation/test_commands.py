"""`psld train_extractor` and `psld reference` on the digits: outputs and errors."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from psld.config.compose import compose_content
from psld.config.settings import parse, write_record
from psld.data.store import ImageStore, PreparedRecord, write_store
from psld.data.units import truncated
from psld.evaluation.folders import (
    extractor_for,
    features_of_splits,
    load_reference,
    read_extractor_manifest,
)
from psld.evaluation.settings import ReferenceSettings
from psld.metrics.distances import frechet_distance
from psld.metrics.extraction import batches_of, gather
from tests.commands import call, refused, succeeded
from tests.results import weights_digest

STEPS = "metric.extractor.steps=100"
METRIC = parse(ReferenceSettings, compose_content("reference", [STEPS], "test"), "test").metric


@pytest.fixture(scope="module")
def made(digits, tmp_path_factory) -> Path:
    """A folder in which both commands have run with their defaults, except for fewer steps."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "data").mkdir()
    shutil.copy(digits, folder / "data" / "digits.h5")
    for command in ("train_extractor", "reference"):
        succeeded(call(folder, command, STEPS))
    return folder


def store_of(path: Path, train: int, test: int, num_classes: int = 10) -> str:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (train + test, 1, 8, 8), dtype=np.uint8)
    write_store(
        path,
        image=(1, 8, 8),
        splits={"train": train, "test": test},
        labels=random.integers(0, max(num_classes, 1), train + test),
        num_classes=num_classes,
        blocks=[images],
    )
    settings = compose_content("prepare", [f"dataset.num_classes={num_classes}"], "test")
    record = PreparedRecord(settings=settings["dataset"], digest=ImageStore.open(path).digest)
    write_record(path.with_suffix(".json"), record)
    return str(path)


def test_the_classifier_is_accurate_and_its_manifest_describes_it(made):
    folder = made / "features" / "digits" / "fd-classifier"
    manifest = read_extractor_manifest(folder)
    assert manifest.test_accuracy >= 0.95
    assert manifest.train_accuracy >= manifest.test_accuracy
    assert manifest.extractor == METRIC.extractor
    assert manifest.dataset_digest == ImageStore.open(made / "data" / "digits.h5").digest
    assert manifest.digest == weights_digest(folder)
    assert manifest.versions["torch"] == torch.__version__


def test_the_reference_gives_the_metric_its_scale(made):
    folder = made / "features" / "digits" / "fd-classifier"
    reference, manifest = load_reference(folder / "reference")
    assert manifest.images == {"train": 1437, "test": 360, "noise": 1437}
    assert [len(part) for part in reference[:3]] == [1437, 360, 1437]
    assert manifest.extractor_digest == read_extractor_manifest(folder).digest
    assert manifest.extractor_test_accuracy == read_extractor_manifest(folder).test_accuracy
    floor, noise = METRIC.scale(reference).values()
    assert 0 < floor < noise / 50


def test_the_metric_grows_with_noise_and_sees_a_missing_class(made):
    folder = made / "features" / "digits" / "fd-classifier"
    store = ImageStore.open(made / "data" / "digits.h5")
    extractor = extractor_for(METRIC, folder, store.digest)
    reference, _ = load_reference(folder / "reference")
    floor = METRIC.scale(reference)["floor"]

    def distance(images: np.ndarray) -> float:
        found = gather(extractor, batches_of(images, 500), "digits", len(images))
        return frechet_distance(found.total, reference.train.total)

    assert distance(store.images("train")) < 1e-6
    random = np.random.default_rng(0)
    noise = random.standard_normal(store.images("test").shape)
    noisy = [
        np.clip(store.images("test") + level * noise, 0, 255).astype(np.uint8)
        for level in (0, 16, 32, 64, 128)
    ]
    distances = [distance(images) for images in noisy]
    assert distances[0] == pytest.approx(floor, rel=1e-6)
    assert distances == sorted(distances)
    without_three = store.images("test")[store.labels("test") != 3]
    assert distance(without_three) > 5 * floor


def test_a_dataset_without_a_test_split_has_a_reference(tmp_path):
    data = store_of(tmp_path / "random.h5", train=60, test=0)
    arguments = [f"data={data}", "metric.extractor.steps=2", "dataset.name=random"]
    for command in ("train_extractor", "reference"):
        succeeded(call(tmp_path, command, *arguments))
    folder = tmp_path / "features" / "random" / "fd-classifier"
    assert read_extractor_manifest(folder).test_accuracy is None
    reference, manifest = load_reference(folder / "reference")
    assert (reference.test, manifest.extractor_test_accuracy) == (None, None)
    assert manifest.images == {"train": 60, "noise": 60}


def test_a_reference_may_be_truncated_as_samples_are(made):
    store = ImageStore.open(made / "data" / "digits.h5")
    extractor = extractor_for(METRIC, made / "features/digits/fd-classifier", store.digest)
    metric = METRIC.model_copy(update={"truncated_reference": True})
    found = features_of_splits(extractor, store.images, store.splits, metric)["test"]
    [images] = batches_of(store.images("test"), 360)
    assert not torch.equal(truncated(images), images)
    expected = gather(extractor, [truncated(images)], "test", 360)
    torch.testing.assert_close(found.values, expected.values)


@pytest.mark.parametrize(
    ("command", "word", "said"),
    [
        ("train_extractor", "metric=fid", "use metric=fd-classifier"),
        ("reference", "metric=fid", "set extractor=null"),
        ("reference", "extractor=null", "psld train_extractor"),
        ("reference", "extractor=missing", "no such file; run psld train_extractor"),
        (
            "reference",
            "metric.extractor.seed=1",
            "metric.extractor: steps was 100, is 300; seed was 0, is 1; delete it, or run",
        ),
    ],
)
def test_bad_settings_are_refused(made, command, word, said):
    refused(call(made, command, word), 2, *said.split("…"))


def test_foreign_datasets_are_refused(made, tmp_path):
    other = store_of(tmp_path / "other.h5", train=20, test=10)
    given = (f"data={other}", "extractor=features/digits/fd-classifier", STEPS)
    refused(call(made, "reference", *given), 2, "trained on other data of digits")
    finished = call(made, "train_extractor", f"data={other}", "dataset.num_classes=9")
    refused(finished, 2, "has num_classes 10, but dataset.num_classes is 9")
    unlabeled = store_of(tmp_path / "unlabeled.h5", train=20, test=10, num_classes=0)
    finished = call(made, "train_extractor", f"data={unlabeled}", "dataset.num_classes=0")
    refused(finished, 2, "no labels")
