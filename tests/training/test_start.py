"""The file of an initial distribution: privacy of single images, the inputs that determine the
file, and its path."""

import json
import shutil
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import psld
from psld.data.units import from_uint8
from psld.models.settings import Start
from psld.models.start import SamplerStart, different_images, measure_start
from psld.utils.errors import UserError
from psld.utils.tensors import load_tensors, save_tensors
from tests.commands import TINY, call, refused, succeeded
from tests.diffusion.mixture import dense
from tests.training.small import prepared

CPU = torch.device("cpu")
FEW = ("sampler=few", "shard_size=2", "output=x")
START = "starts/x.safetensors"


def pictures(count: int, seed: int = 0) -> np.ndarray:
    """Return distinct images of digits, uint8 N×1×8×8."""
    images = (load_digits().images * 15.9).astype(np.uint8)[:, None]
    return images[np.random.default_rng(seed).permutation(len(images))[:count]]


def flat(images: np.ndarray) -> torch.Tensor:
    return from_uint8(torch.from_numpy(images)).flatten(1).double()


def near(points: torch.Tensor, images: np.ndarray) -> float:
    """Return the smallest distance between a point and an image or its mirror image."""
    both = torch.cat([flat(images), flat(images[..., ::-1].copy())])
    return float(torch.cdist(points.double(), both).min())


def guesses(start: SamplerStart, counts: list[int]) -> torch.Tensor:
    """Return candidates for images that the file may reveal, N×d. The test describes them."""
    data, points = start.data, []
    for g, mean in enumerate(data.means.double()):
        values, vectors = torch.linalg.eigh(data.covariances[g].double())
        axis = data.basis.double() @ vectors[:, -1] * values[-1].sqrt()
        n = (counts[g - 1] if g else sum(counts)) - 1
        points += [mean, mean + n**0.5 * axis, mean - n**0.5 * axis]
        mixture = data.weights[g] > 0 if data.axes.shape[-1] else torch.zeros(1)
        for k in mixture.nonzero().flatten().tolist():
            into = data.basis.double() @ data.axes[g].double()
            center = mean + into @ data.centers[g, k].double()
            values, vectors = torch.linalg.eigh(data.spreads[g, k].double())
            size = float(data.weights[g, k]) * (n + 1) - 1
            way = into @ vectors[:, -1] * (values[-1].clamp(min=0) * max(size, 0)).sqrt()
            points += [center, center + way, center - way]
    classes = range(len(data.means) - 1)
    for others in chain(*(combinations(classes, size) for size in range(1, len(classes)))):
        left = sum(counts) - sum(counts[c] for c in others)
        total = sum(counts) * data.means[0].double()
        points.append((total - sum(counts[c] * data.means[1 + c].double() for c in others)) / left)
    return torch.stack(points)


@pytest.mark.parametrize(
    ("counts", "flip"),
    [([1, 60, 40], True), ([2, 60, 40], True), ([12, 60, 40], True), ([1, 2, 30], False)],
    ids=str,
)
def test_no_image_of_a_person_can_be_read_from_the_file(counts, flip, tmp_path):
    """The candidates are the means and the centers, the points at ± √(n−1) standard deviations
    along the first principal axis, and the mean of the images outside of some classes."""
    images = pictures(sum(counts) + 400)
    train, test = images[: sum(counts)], images[sum(counts) :]
    if counts[0] == 2:
        train[1] = train[0][..., ::-1]  # a picture and its mirror image
    words = prepared(tmp_path, "people", train, counts, f"dataset.flip={flip}")
    succeeded(call(tmp_path, "start", *words, "classes=true"))
    [file] = (tmp_path / "starts").iterdir()
    assert file.name == f"people{'-flip' * flip}-classes.safetensors"
    start = start_in(file)
    assert start.data.has_classes == (min(counts) >= 10)
    assert near(guesses(start, counts), train) > near(flat(test), train)


def start_in(file: Path) -> SamplerStart:
    arrays = load_tensors(file, "start", "").tensors()
    levels = arrays.pop("levels")
    return SamplerStart(psld.diffusion.gaussian.GaussianData.from_arrays(arrays), levels)


def test_copies_and_mirror_images_are_one_image():
    few = pictures(12)
    copies = np.concatenate([few, few[..., ::-1], few.repeat(50, axis=0)])
    assert different_images(copies).tolist() == list(range(12))
    start = measure_start(copies, CPU, Start())
    assert start.data.components() == [1]
    torch.testing.assert_close(start.data.means[0].double(), flat(few).mean(0), rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="9 distinct training images"):
        measure_start(np.concatenate([few[:9], few[:9, ..., ::-1]]), CPU, Start())
    images, labels = pictures(30), np.arange(30) // 10
    nine = [*range(9), *range(9), *range(10, 30)]
    for chosen, has_classes in ((range(30), True), (nine, False)):
        start = measure_start(images[chosen], CPU, Start(components=()), labels[chosen], 3)
        assert start.data.has_classes == has_classes


@pytest.mark.parametrize("flip", [False, True])
def test_the_moments_match_the_images_of_a_training(flip):
    images = pictures(200)
    x = flat(np.concatenate([images, images[..., ::-1]]) if flip else images)
    data = measure_start(images, CPU, Start(components=()), flip=flip).data
    torch.testing.assert_close(data.means[0].double(), x.mean(0), atol=1e-5, rtol=0)
    torch.testing.assert_close(dense(data, 0).double(), x.T.cov(correction=0), atol=1e-2, rtol=0)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a small dataset, `x`, a model, and initial distributions with and without
    classes."""
    folder = tmp_path_factory.mktemp("made")
    words = prepared(folder, "x", pictures(200), [100, 100])
    train = ("process=psld", "training.steps=1", "output=model", *words[1:], "data=data/x.h5")
    succeeded(call(folder, "train", *TINY, *train))
    for classes in ("false", "true"):
        succeeded(call(folder, "start", *words, f"classes={classes}"))
    return folder


@pytest.fixture
def project(made, tmp_path, monkeypatch) -> Path:
    """A folder with the dataset and the model, but without an initial distribution."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("starts"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_start_is_fitted_once_for_all_models(project, made):
    """An initial distribution that was fitted to other images is ignored."""
    stored = load_tensors(made / START, "start", "")
    other = stored.origin | {"dataset": "0" * 64}
    save_tensors(START, "start", stored.arrays, other)
    said = succeeded(call(project, "sample", "model=model", *FEW)).stdout
    assert "fitting the initial distribution" in said
    assert f"not kept: {START}: fitted with a different dataset than requested" in said
    whole = (project / START).read_bytes()
    assert whole == (made / START).read_bytes()
    other = ("process=vp-sde", "training.steps=1", "output=other", "data=data/x.h5")
    succeeded(call(project, "train", *TINY, *other))
    said = succeeded(call(project, "sample", "model=other", *FEW[:2], "output=y")).stdout
    assert "fitting" not in said
    assert (project / START).read_bytes() == whole
    origin = load_tensors("x/00000.safetensors", "shard", "").origin["origin"]
    assert origin["start_sha256"] == load_tensors(START, "start", "").sha256
    assert psld.load("model").sample(2, sampler="few", steps=0, label=1).shape == (2, 1, 8, 8)
    names = {file.name for file in (project / "starts").iterdir()}
    assert names == {"x.safetensors", "x-classes.safetensors"}


def test_samples_of_another_start_are_replaced_and_a_start_with_classes_works_without(
    project, made
):
    shutil.copytree(made / "starts", project / "starts")
    sample = ("sample", "model=model", *FEW)
    succeeded(call(project, *sample))
    stored = load_tensors(START, "start", "")
    save_tensors(START, "start", stored.arrays | {"means": -stored.arrays["means"]}, stored.origin)
    refused(call(project, *sample), 2, "00000.safetensors: sampled with a different start_sha256")
    assert "kept" in succeeded(call(project, *sample, f"start={made / START}")).stdout
    with_classes = ("start=starts/x-classes.safetensors", "output=y")
    succeeded(call(project, *sample, *with_classes))


@pytest.mark.parametrize("name", ["digits-flip", "digits-classes"])
def test_two_datasets_do_not_share_the_file_of_a_start(name, tmp_path):
    """The start of the dataset `digits` with flips, or with classes, has the same file name."""
    said = f"dataset.name={name}: ends with -flip or -classes"
    refused(call(tmp_path, "start", f"dataset.name={name}"), 2, said)
    assert not (tmp_path / "starts").exists()


WRONG: list[tuple[str, Any]] = [
    ("fitted with a different dataset", lambda stored: ({}, {"dataset": "0" * 64})),
    ("fitted with a different flip", lambda stored: ({}, {"flip": True})),
    ("not a start", lambda stored: ({"levels": stored.arrays["levels"][0]}, {})),
    ("not a start", lambda stored: ({"rests": stored.arrays["rests"] * np.nan}, {})),
    ("not a start", lambda stored: ({"means": np.zeros((1, 1, 9, 9), np.float32)}, {})),
]


def test_a_wrong_start_is_refused(project, made):
    stored = load_tensors(made / START, "start", "")
    for said, change in WRONG:
        arrays, origin = change(stored)
        save_tensors("wrong", "start", stored.arrays | arrays, stored.origin | origin)
        with pytest.raises(UserError, match=f"wrong: {said}.*; fit it again"):
            psld.load("model", start="wrong").sample(1, sampler="few")


def test_a_damaged_or_missing_start_without_images_is_reported_in_one_line(project, made):
    sample = ("sample", "model=model", *FEW)
    remedy = "run psld prepare dataset=x, or give start=FILE"
    prepared(project, "x", pictures(200, seed=1), [100, 100], "replace=true")  # other images
    refused(call(project, *sample), 2, f"{START}: no such file", remedy)
    (project / "data/x.h5").unlink()
    refused(call(project, *sample), 2, f"{START}: no such file", remedy)
    (project / "starts").mkdir()
    whole = (made / START).read_bytes()
    (project / START).write_bytes(whole[:-1])
    refused(call(project, *sample), 2, f"{START}: damaged", remedy)
    # A file in the folder of the model is ignored.
    (project / "model/start.safetensors").write_bytes(whole)
    refused(call(project, *sample), 2, f"{START}: damaged", remedy)
    refused(call(project, *sample, "start=nowhere.safetensors"), 2, "nowhere.safetensors: no such")
    wrong = call(project, *sample[:2], "output=x", "sampler=em", "start=nowhere.safetensors")
    refused(wrong, 2, "start: the sampler starts from the prior")


def test_the_settings_of_a_start_name_its_inputs(project, made):
    coarse = ("start.components=[2]", "start.directions=[10]", "start.shares=[1,0.6]")
    words = ("dataset.name=x", "dataset.num_classes=2", *coarse, "output=coarse.safetensors")
    succeeded(call(project, "start", *words))
    origin = load_tensors("coarse.safetensors", "start", "").origin
    manifest = json.loads(Path("model/manifest.json").read_text())
    how = Start(components=(2,), directions=(10,), shares=(1, 0.6)).model_dump(mode="json")
    assert origin["settings"] == how
    assert origin["dataset"] == manifest["dataset_digest"]
    usual = psld.load("model", start=made / START).start
    start = psld.load("model", start="coarse.safetensors").start
    assert start.data.components() == [2]
    deviation = start.data.largest_deviations()
    torch.testing.assert_close(start.levels[1], (0.6 * deviation).clamp(min=0.5))
    torch.testing.assert_close(start.levels[0], usual.levels[0] / 0.75)


def test_steps_0_with_a_class_need_a_distribution_of_each_class(project, made):
    """A class of fewer than ten images has no distribution, and steps=0 evaluates no network."""
    stored = load_tensors(made / START, "start", "")
    origin = stored.origin | {"classes": True}
    save_tensors("starts/x-classes.safetensors", "start", stored.arrays, origin)
    with pytest.raises(UserError, match="fewer than ten distinct"):
        psld.load("model").sample(2, sampler="few", steps=0, label=1)


def test_the_fit_leaves_out_at_least_ten_images(monkeypatch):
    """The means of all images and of the mixture reveal the sum of the left-out images."""
    monkeypatch.setattr("psld.models.start.MOST_IMAGES", 200)
    images = pictures(201)
    images[::2] = 255 - images[::2]  # two components
    start = measure_start(images, CPU, Start(components=(2,), directions=(20,))).data
    assert start.components() == [2]
    into = start.basis.double() @ start.axes[0].double()
    middle = (start.weights[0, :, None] * start.centers[0]).sum(0).double()
    known = flat(images) @ into @ into.T
    for taken in range(1, 201):
        guess = start.means[0].double() - taken * (into @ middle) / (201 - taken)
        assert float((guess @ into @ into.T - known).norm(dim=1).min()) > 0.5
