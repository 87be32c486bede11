"""Guidance in the commands: labels of shards, their evaluation, and compatible settings."""

import json
import shutil

import numpy as np
import pytest
import torch

import psld
from psld.evaluation.folders import load_trained
from psld.evaluation.results import CellResults
from psld.models.manifest import GuideManifest, read_manifest
from psld.sampling.shards import Shard
from psld.utils.errors import UserError
from tests.commands import TINY, call, refused, succeeded
from tests.results import sealed

SIZE = 12
FREE = ("guidance@sampler.guidance=classifier-free",)
BY_CLASSIFIER = ("guidance@sampler.guidance=classifier",)
EM = ("sampler=em", "sampler.steps=6")


def test_samples_are_guided_in_inference_mode(model, guide):
    loaded, options = psld.load(model), {"sampler": "em", "steps": 3, "label": 3, "guide": guide}
    outside = loaded.sample(2, **options)
    with torch.inference_mode():
        assert torch.equal(loaded.sample(2, **options), outside)


def test_samples_are_guided_by_a_guide(model, guide, tmp_path):
    """Sample i has class i mod 10. Its image depends on the guidance, but not on the batch size."""
    overrides = (*EM, *BY_CLASSIFIER, f"guide={guide}", f"shard_size={SIZE}", "first=1")
    shards = {}
    for name, more in {
        "guided": (),
        "parts": ("batch_size=5",),
        "strongly": ("sampler.guidance.scale=100",),
        "threes": ("sampler.guidance.label=3",),
    }.items():
        arguments = (*overrides, *more, f"model={model}", f"output={name}")
        succeeded(call(tmp_path, "sample", *arguments))
        shards[name] = Shard.load(tmp_path / name / "00001.safetensors")
    guided = shards["guided"]
    assert guided.labels.tolist() == [i % 10 for i in range(SIZE, 2 * SIZE)]
    assert guided.masks is None
    assert guided.origin.guide_sha256 == read_manifest(guide, GuideManifest).weights_sha256
    difference = np.abs(guided.images.astype(int) - shards["parts"].images)
    assert difference.max() <= 1
    assert not np.array_equal(guided.images, shards["strongly"].images)
    assert shards["threes"].labels.tolist() == [3] * SIZE


def test_classifier_free_samples_are_recognized_as_their_class(
    conditional_model, features, tmp_path
):
    """The classifier, called directly, recognizes as many samples as the evaluation reports."""
    cell = (*EM, *FREE, f"model={conditional_model}", f"shard_size={SIZE}")
    succeeded(call(tmp_path, "sample", *cell, "shards=2", "output=cell"))
    shards = [Shard.load(tmp_path / "cell" / f"{index:05d}.safetensors") for index in range(2)]
    assert [shard.nfe for shard in shards] == [12, 12]
    samples = 2 * SIZE - 3
    metric = ("metric=fd-classifier", f"extractor={features}", f"reference={features}/reference")
    evaluation = ("images=cell", *metric, f"samples={samples}", "output=result.json")
    succeeded(call(tmp_path, "evaluate", *evaluation))
    extractor = load_trained(features)
    images = torch.from_numpy(np.concatenate([shard.images for shard in shards])[:samples])
    answers = extractor(images)[1].argmax(dim=1).numpy()
    labels = np.arange(samples) % 10
    (result,) = CellResults.read(tmp_path / "result.json").results
    assert result.class_accuracy.value == pytest.approx((answers == labels).mean())
    assert (result.nfe, result.sampling_device) == (12, shards[0].device)


def test_a_class_conditional_model_samples_without_a_class_too(conditional_model, tmp_path):
    arguments = (*EM, f"model={conditional_model}", f"shard_size={SIZE}", "output=x")
    succeeded(call(tmp_path, "sample", *arguments))
    shard = Shard.load(tmp_path / "x" / "00000.safetensors")
    assert shard.labels is None
    assert shard.nfe == 6


def test_classes_are_requested_by_name_for_each_image(conditional_model, tmp_path):
    model = shutil.copytree(conditional_model, tmp_path / "model")
    manifest = json.loads((model / "manifest.json").read_text())
    assert manifest["class_names"] == list("0123456789")
    names = ["T-shirt/top", "trouser", *"cdefghi", "ankle boot"]
    (model / "manifest.json").write_text(sealed(manifest | {"class_names": names}))
    cell = (*EM, *FREE, f"model={model}", "shard_size=5", "output=cell")
    label = "sampler.guidance.label=[trouser,ankle boot,T-shirt/top,3]"
    printed = succeeded(call(tmp_path, "sample", *cell, label)).stdout
    assert "\nclasses: 1 trouser, 9 ankle boot, 0 T-shirt/top, 3 d\n" in f"\n{printed}"
    shard = Shard.load(tmp_path / "cell" / "00000.safetensors")
    assert shard.labels.tolist() == [1, 9, 0, 3, 1]
    loaded, few = psld.load(model), {"sampler": "em", "steps": 6}
    images = loaded.sample(5, **few, label=["trouser", "ankle boot", "T-shirt/top", 3])
    np.testing.assert_array_equal(images, shard.images)
    boots = loaded.sample(2, **few, label="ankle boot")
    assert torch.equal(boots, loaded.sample(2, **few, label=np.int64(9)))


def test_a_number_that_is_the_name_of_another_class_is_refused(conditional_model, tmp_path):
    """This happens with folders 1 to 10, whose names are sorted as texts."""
    model = shutil.copytree(conditional_model, tmp_path / "model")
    manifest = json.loads((model / "manifest.json").read_text())
    names = sorted(map(str, range(1, 11)))
    (model / "manifest.json").write_text(sealed(manifest | {"class_names": names}))
    loaded, few = psld.load(model), {"sampler": "em", "steps": 6}
    for label, said in (
        (1, "1 is the name of class 0, and the number of 10; put the name in quotes: '1'"),
        ([3, 1], "1 is the name of class 0"),
        (10, "10 is the name of class 1, and the number of no class"),
    ):
        with pytest.raises(UserError, match=rf"^sample\(\): label: {said}"):
            loaded.sample(2, **few, label=label)
    assert torch.equal(
        loaded.sample(2, **few, label="10"), loaded.sample(2, **few, label=["10", "10"])
    )
    cell = (*EM, *FREE, f"model={model}", "shard_size=2", "output=cell")
    refused(
        call(tmp_path, "sample", *cell, "sampler.guidance.label=1"), 2, "1 is the name of class 0"
    )
    ten = succeeded(call(tmp_path, "sample", *cell, "sampler.guidance.label='10'")).stdout
    assert "classes: 1 10\n" in ten
    assert Shard.load(tmp_path / "cell" / "00000.safetensors").labels.tolist() == [1, 1]


def test_shards_of_another_guide_are_refused(model, guide, digits, tmp_path):
    """A guide that was trained again makes different images, although its folder is the same."""
    cell = (*EM, *BY_CLASSIFIER, "guide=guide", f"model={model}", "shard_size=4")
    shutil.copytree(guide, tmp_path / "guide")
    succeeded(call(tmp_path, "sample", *cell, "output=cell"))
    retrain = (*TINY, "training.steps=2", f"data={digits}", "output=guide")
    succeeded(call(tmp_path, "train_guide", *retrain))
    words = "00000.safetensors: sampled with a different guide_sha256"
    refused(call(tmp_path, "sample", *cell, "output=cell"), 2, words)
