"""A reference folder: its statistics and features, and errors for damaged files."""

import pytest
import torch

from psld.config.settings import parse
from psld.metrics.features import Features
from psld.metrics.measure import measure
from psld.metrics.reference_folder import (
    FEATURES,
    TEST_FEATURES,
    ReferenceManifest,
    load_reference,
    load_reference_features,
    save_reference_manifest,
    save_statistics,
)
from psld.metrics.settings import MetricSettings
from psld.utils.errors import UserError
from tests.metrics.test_frechet import random_features

METRIC = parse(
    MetricSettings,
    {
        "name": "memorization-classifier",
        "extractor": {"kind": "classifier"},
        "measure": {"kind": "memorization", "quantile": 0.1},
    },
    "metric",
)
TRAIN, TEST = Features(random_features(200, 4, 1)), Features(random_features(100, 4, 1)[:60] + 0.1)


def write(folder, with_features: bool) -> None:
    digests = {}
    if with_features:
        digests["features_sha256"] = TRAIN.save(folder / FEATURES)
        digests["test_features_sha256"] = TEST.save(folder / TEST_FEATURES)
    save_reference_manifest(
        folder,
        ReferenceManifest(
            metric=METRIC,
            dataset="digits",
            dataset_digest="0",
            samples=200,
            statistics_sha256=save_statistics(folder, TRAIN.statistics()),
            extractor_digest="1",
            extractor_test_accuracy=None,
            floor=0.1,
            noise=0.0,
            device="cpu",
            versions={},
            precision={},
            git_revision=None,
            **digests,
        ),
    )


def test_features_come_back_and_serve_a_measure(tmp_path):
    write(tmp_path, with_features=True)
    reference = load_reference_features(tmp_path, load_reference(tmp_path)[1])
    assert torch.equal(reference.features.values, TRAIN.values)
    assert torch.equal(reference.test_features.values, TEST.values)
    assert measure(METRIC, TRAIN, reference).value == 1
    assert measure(METRIC, TEST, reference).value == pytest.approx(0.1)


def test_a_reference_of_statistics_alone_has_no_features(tmp_path):
    write(tmp_path, with_features=False)
    reference = load_reference_features(tmp_path, load_reference(tmp_path)[1])
    assert reference.features is None
    with pytest.raises(UserError, match="memorization-classifier: the reference has no features"):
        measure(METRIC, TRAIN, reference)


def test_damaged_features_are_named(tmp_path):
    write(tmp_path, with_features=True)
    manifest = load_reference(tmp_path)[1]
    TEST.save(tmp_path / FEATURES)
    with pytest.raises(UserError, match=r"features\.safetensors: damaged"):
        load_reference_features(tmp_path, manifest)
