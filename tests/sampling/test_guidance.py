"""Guidance in the commands: labels of shards, their evaluation, and compatible settings."""

import json
import shutil

import numpy as np
import pytest
import torch

import psld
from psld.config.compose import compose_content
from psld.config.settings import parse
from psld.grid.resolution import compose_model
from psld.metrics.classifier import load_classifier
from psld.metrics.results import CellResults
from psld.sampling.named import compose_sampler
from psld.sampling.settings import check_fit
from psld.sampling.shards import Shard
from psld.training.manifest import GuideManifest, read_manifest
from psld.training.settings import TrainGuideSettings
from psld.utils.errors import UserError
from tests.commands import TINY, call, refused, succeeded
from tests.results import sealed

SIZE = 12
FREE = ("guidance@sampler.guidance=classifier-free",)
BY_CLASSIFIER = ("guidance@sampler.guidance=classifier",)
QUICK = {
    "em": ("sampler=em", "sampler.steps=6"),
    "sscs": ("sampler=sscs", "sampler.steps=6"),
    "rk45": ("sampler=rk45", "sampler.tolerance=1e-1"),
}


@pytest.fixture(params=QUICK.values(), ids=QUICK)
def quick(request):
    return request.param


def test_every_integrator_is_guided_by_a_guide(model, guide, quick, tmp_path):
    """Sample i goes to class i mod 10; its image depends on the guidance, not on the batch size."""
    overrides = (
        *quick,
        *BY_CLASSIFIER,
        f"guide={guide}",
        f"shard_size={SIZE}",
        "first=1",
    )
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


def test_classifier_free_samples_and_their_recognized_share(conditional_model, features, tmp_path):
    """The metric's classifier, asked directly, finds as many of the classes as evaluation says."""
    cell = (*QUICK["em"], *FREE, f"model={conditional_model}", f"shard_size={SIZE}")
    succeeded(call(tmp_path, "sample", *cell, "shards=2", "output=cell"))
    shards = [Shard.load(tmp_path / "cell" / f"{index:05d}.safetensors") for index in range(2)]
    assert [shard.nfe for shard in shards] == [12, 12]
    samples = 2 * SIZE - 3
    metric = ("metric=fd-classifier", f"extractor={features}", f"reference={features}/reference")
    evaluation = ("images=cell", *metric, f"samples={samples}", "output=result.json")
    succeeded(call(tmp_path, "evaluate", *evaluation))
    extractor = load_classifier(features)
    images = torch.from_numpy(np.concatenate([shard.images for shard in shards])[:samples])
    answers = extractor(images)[1].argmax(dim=1).numpy()
    labels = np.arange(samples) % 10
    (result,) = CellResults.read(tmp_path / "result.json").results
    assert result.class_accuracy.value == pytest.approx((answers == labels).mean())
    assert (result.nfe, result.sampling_device) == (12, shards[0].device)


def test_a_class_conditional_model_samples_without_a_class_too(conditional_model, tmp_path):
    arguments = (*QUICK["em"], f"model={conditional_model}", f"shard_size={SIZE}", "output=x")
    succeeded(call(tmp_path, "sample", *arguments))
    shard = Shard.load(tmp_path / "x" / "00000.safetensors")
    assert shard.labels is None
    assert shard.nfe == 6


def test_classes_are_asked_for_by_name_image_by_image(conditional_model, tmp_path):
    model = shutil.copytree(conditional_model, tmp_path / "model")
    manifest = json.loads((model / "manifest.json").read_text())
    assert manifest["class_names"] == list("0123456789")
    names = ["T-shirt/top", "trouser", *"cdefghi", "ankle boot"]
    (model / "manifest.json").write_text(sealed(manifest | {"class_names": names}))
    cell = (*QUICK["em"], *FREE, f"model={model}", "shard_size=5", "output=cell")
    label = "sampler.guidance.label=[trouser,ankle boot,T-shirt/top,3]"
    succeeded(call(tmp_path, "sample", *cell, label))
    shard = Shard.load(tmp_path / "cell" / "00000.safetensors")
    assert shard.labels.tolist() == [1, 9, 0, 3, 1]
    loaded, few = psld.load(model), {"sampler": "em", "steps": 6}
    images = loaded.sample(5, **few, label=["trouser", "ankle boot", "T-shirt/top", 3])
    np.testing.assert_array_equal(images, shard.images)
    boots = loaded.sample(2, **few, label="ankle boot")
    assert torch.equal(boots, loaded.sample(2, **few, label=np.int64(9)))


def test_shards_of_another_guide_are_refused(model, guide, digits, tmp_path):
    """A guide that was trained again makes other images, although it lies in the same place."""
    cell = (*QUICK["em"], *BY_CLASSIFIER, "guide=guide", f"model={model}", "shard_size=4")
    shutil.copytree(guide, tmp_path / "guide")
    succeeded(call(tmp_path, "sample", *cell, "output=cell"))
    retrain = (*TINY, "training.steps=2", f"data={digits}", "output=guide")
    succeeded(call(tmp_path, "train_guide", *retrain))
    words = "00000.safetensors: made by another guide_sha256"
    refused(call(tmp_path, "sample", *cell, "output=cell"), 2, words)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ((*BY_CLASSIFIER,), ["guide: sampler.guidance needs it"]),
        (("guide=GUIDE",), ["guide: sampler.guidance has no use for"]),
        (
            (*BY_CLASSIFIER, "guide=MODEL"),
            ["not the manifest of a guide, but of a model"],
        ),
        (
            ("model=GUIDE",),
            ["not the manifest of a model, but of a guide"],
        ),
        ((*BY_CLASSIFIER, "guide=absent"), ["absent/manifest.json: no such file"]),
        (
            (*BY_CLASSIFIER, "guide=GUIDE", "sampler.guidance.label=10"),
            ["sampler.guidance.label: dataset digits has no class 10; there are 0 to 9"],
        ),
        (
            (*BY_CLASSIFIER, "guide=GUIDE", "sampler.guidance.label=[3,three]"),
            ["no class three; there are 0 to 9, and cycle (0, 1, 2,"],
        ),
        ((*BY_CLASSIFIER, "guide=GUIDE", "sampler.guidance.label=-1"), ["has no class -1"]),
        (("sampler.final_time=1e-6",), ["sampler.final_time: 1e-06 is before", "1e-05 or more"]),
        ((*FREE,), ["needs a class-conditional model", "training.label_dropout"]),
        ((*FREE, "sampler.guidance.scale=0"), ["sampler.guidance.scale", "greater than 0"]),
        ((*FREE, "sampler.guidance.label=true"), ["sampler.guidance.label: a class is a number"]),
        ((*FREE, "+sampler.guidance.speed=1"), ["unknown key sampler.guidance.speed"]),
    ],
)
def test_bad_settings_are_refused_in_one_line(model, guide, tmp_path, overrides, words):
    places = {"MODEL": str(model), "GUIDE": str(guide)}
    given = [f"model={model}", *QUICK["em"], "output=x"]
    for override in overrides:
        key, _, value = override.partition("=")
        given = [o for o in given if not o.startswith(f"{key}=")]
        given.append(f"{key}={places.get(value, value)}")
    refused(call(tmp_path, "sample", *given), 2, *words)
    assert not (tmp_path / "x").exists()


def guide_settings(overrides: list[str]) -> TrainGuideSettings:
    return parse(TrainGuideSettings, compose_content("train_guide", overrides, "test"), "test")


def model_settings(*overrides: str):
    return compose_model(overrides, "test")


@pytest.mark.parametrize(
    ("trained", "message"),
    [
        (["process=vp-sde"], "images noised by another process"),
        (["process=psld", "process.gamma=0.02"], "images noised by another process"),
        (["dataset=fashion-mnist"], "dataset.name fashion-mnist, the model with digits"),
        (["dataset.image_size=16", "dataset.filter=box"], "dataset.image_size 16"),
    ],
)
def test_a_guide_guides_models_of_its_own_dataset_and_process(trained, message):
    sampler = compose_sampler(BY_CLASSIFIER, "test")
    own = guide_settings([])
    check_fit(sampler, model_settings(), own)
    with pytest.raises(UserError, match=message):
        check_fit(sampler, model_settings(), guide_settings(trained))
    with pytest.raises(UserError, match="guidance by a guide needs one"):
        check_fit(sampler, model_settings(), None)


def test_a_guide_of_the_logarithm_of_time_takes_no_official_time():
    official = (*BY_CLASSIFIER, "sampler.guidance.official_time=true")
    sampler = compose_sampler(official, "test")
    fourier = guide_settings(["network.embedding=fourier"])
    positional = guide_settings(["network.embedding=positional"])
    check_fit(sampler, model_settings(), positional)
    with pytest.raises(UserError, match="official_time: this guide embeds the logarithm"):
        check_fit(sampler, model_settings(), fourier)


def test_a_dataset_without_classes_cannot_be_guided():
    sampler = compose_sampler(BY_CLASSIFIER, "test")
    with pytest.raises(UserError, match="guidance needs classes, and dataset celeba64 has none"):
        check_fit(sampler, model_settings("dataset=celeba64"), None)
