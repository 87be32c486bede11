"""A reference folder: features in, features out, and errors for damaged files."""

from unittest.mock import Mock

import pytest
import torch

from psld.config.settings import parse, write_record
from psld.metrics.evaluation import measure, scale
from psld.metrics.features import Features, Reference
from psld.metrics.reference_folder import (
    ReferenceManifest,
    check_reference,
    load_reference,
    save_features,
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
NOISE = Features(random_features(50, 4, 2) + 10, logits=random_features(50, 3, 3))


def write(folder, **parts: Features) -> None:
    manifest = ReferenceManifest(
        extractor=METRIC.extractor,
        truncated_reference=False,
        dataset="digits",
        dataset_digest="0",
        images={name: len(features) for name, features in parts.items()},
        features_sha256=save_features(folder, parts, {}),
        extractor_digest="1",
        extractor_test_accuracy=None,
        device="cpu",
        versions={},
        precision={},
        git_revision=None,
    )
    write_record(folder / "manifest.json", manifest)


def test_the_place_of_the_weights_is_no_other_extractor(tmp_path):
    """Their digest says whether they are others."""

    def metric(weights: str | None) -> MetricSettings:
        extractor = {"kind": "inception", "weights": weights}
        return parse(MetricSettings, {"name": "fid", "extractor": extractor}, "metric")

    write(tmp_path, train=TRAIN, noise=NOISE)
    _, manifest = load_reference(tmp_path)
    made = manifest.model_copy(update={"extractor": metric(None).extractor})
    model = Mock(dataset_digest="0", **{"settings.dataset.name": "digits"})
    check_reference(metric("a.pth"), tmp_path, made, "1", model)
    with pytest.raises(UserError, match="made with another extractor than fid has"):
        check_reference(metric("a.pth"), tmp_path, made, "2", model)


def test_features_come_back_and_serve_a_measure(tmp_path):
    write(tmp_path, train=TRAIN, test=TEST, noise=NOISE)
    reference, manifest = load_reference(tmp_path)
    for part, expected in zip(reference, (TRAIN, TEST, NOISE), strict=True):
        assert torch.equal(part.values, expected.values)
    assert torch.equal(reference.noise.logits, NOISE.logits)
    assert manifest.images == {"train": 200, "test": 60, "noise": 50}
    assert measure(METRIC, TRAIN, reference).value == 1
    assert measure(METRIC, TEST, reference).value == pytest.approx(0.1)
    assert scale(METRIC, reference) == {"floor": pytest.approx(0.1), "noise": 0}


@pytest.mark.parametrize(("split", "images"), [("train", TRAIN), ("test", TEST)])
def test_a_distance_is_to_the_images_of_its_split(split, images):
    content = {"name": "fd-classifier", "extractor": {"kind": "classifier"}}
    metric = parse(MetricSettings, content | {"reference_split": split}, "metric")
    reference = Reference(TRAIN, TEST, NOISE)
    assert measure(metric, images, reference).value == pytest.approx(0, abs=1e-9)
    floor, noise = scale(metric, reference).values()
    assert 0.01 < floor < noise


def test_without_a_test_split_there_is_no_floor(tmp_path):
    write(tmp_path, train=TRAIN, noise=NOISE)
    reference, _ = load_reference(tmp_path)
    fd = METRIC.model_copy(update={"measure": MetricSettings.model_fields["measure"].default})
    assert scale(fd, reference)["floor"] is None
    with pytest.raises(UserError, match="no test images"):
        measure(METRIC, TRAIN, reference)
