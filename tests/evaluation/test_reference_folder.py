"""A reference folder: features in, features out, and errors for damaged files."""

from unittest.mock import Mock

import pytest
import torch

from psld.config.settings import parse, write_record
from psld.evaluation.folders import (
    ReferenceManifest,
    check_reference,
    load_reference,
    noise_images,
    save_features,
)
from psld.metrics.features import Features
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


def test_the_path_of_the_weights_does_not_identify_the_extractor(tmp_path):
    """The digest of the weights identifies them."""

    def metric(weights: str | None) -> MetricSettings:
        extractor = {"kind": "inception", "weights": weights}
        return parse(MetricSettings, {"name": "fid", "extractor": extractor}, "metric")

    write(tmp_path, train=TRAIN, noise=NOISE)
    _, manifest = load_reference(tmp_path)
    made = manifest.model_copy(update={"extractor": metric(None).extractor})
    model = Mock(dataset_digest="0", **{"settings.dataset.name": "digits"})
    check_reference(metric("a.pth"), tmp_path, made, "1", model)
    with pytest.raises(UserError, match="made with another extractor than fid;"):
        check_reference(metric("a.pth"), tmp_path, made, "2", model)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"truncated_reference": True}, "made with another extractor than memorization-classifier"),
        ({"extractor_digest": "2"}, "made with another extractor"),
        ({"dataset": "mnist"}, "made from dataset mnist, but the model was trained on other data"),
        (
            {"dataset_digest": "3"},
            "made from dataset digits, but the model was trained on other data",
        ),
    ],
)
def test_a_reference_of_other_features_or_images_is_refused(tmp_path, changes, said):
    write(tmp_path, train=TRAIN, noise=NOISE)
    _, manifest = load_reference(tmp_path)
    changed = manifest.model_copy(update=changes)
    for known in ("0", None):  # None for an imported model
        model = Mock(dataset_digest=known, **{"settings.dataset.name": "digits"})
        check_reference(METRIC, tmp_path, manifest, "1", model)
        if known or "dataset_digest" not in changes:
            with pytest.raises(UserError, match=said):
                check_reference(METRIC, tmp_path, changed, "1", model)
        else:
            check_reference(METRIC, tmp_path, changed, "1", model)


def test_the_facts_of_a_result_describe_its_reference_split(tmp_path):
    write(tmp_path, train=TRAIN, test=TEST, noise=NOISE)
    _, manifest = load_reference(tmp_path)
    counts = {split: manifest.facts(split) for split in ("train", "test")}
    assert (counts["train"]["reference_samples"], counts["train"]["floor_samples"]) == (200, 60)
    assert (counts["test"]["reference_samples"], counts["test"]["floor_samples"]) == (60, 200)
    assert counts["train"]["reference_sha256"] == manifest.features_sha256


def test_noise_is_quantized_as_samples_are_and_the_same_for_any_batch_size():
    [noise] = noise_images(500, (1, 8, 8), 500)
    shares = [(noise == end).double().mean().item() for end in (0, 255)]
    assert shares == pytest.approx([0.16, 0.159], abs=0.01), "a sixth of N(0, 1) is below −1"
    assert torch.equal(torch.cat([*noise_images(500, (1, 8, 8), 70)]), noise)


def test_saved_features_are_loaded_unchanged(tmp_path):
    write(tmp_path, train=TRAIN, test=TEST, noise=NOISE)
    reference, manifest = load_reference(tmp_path)
    for part, expected in zip(reference[:3], (TRAIN, TEST, NOISE), strict=True):
        assert torch.equal(part.values, expected.values)
    assert torch.equal(reference.noise.logits, NOISE.logits)
    assert manifest.images == {"train": 200, "test": 60, "noise": 50}


def test_without_a_test_split_there_is_no_floor(tmp_path):
    write(tmp_path, train=TRAIN, noise=NOISE)
    reference, _ = load_reference(tmp_path)
    fd = METRIC.model_copy(update={"measure": MetricSettings.model_fields["measure"].default})
    assert fd.scale(reference)["floor"] is None
    with pytest.raises(UserError, match="no test images"):
        METRIC.evaluate(TRAIN, reference)
