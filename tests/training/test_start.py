"""The record of a start: what it says of single images, what decides it, how it is found."""

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
from psld.data.images import save_images
from psld.data.store import from_uint8
from psld.training.settings import Start
from psld.training.start import SamplerStart, different_images, measure_start
from psld.utils.errors import UserError
from psld.utils.tensors import load_tensors, save_tensors
from tests.commands import TINY, call, refused, succeeded

CPU = torch.device("cpu")
FEW = ("sampler=few", "shard_size=2", "output=x")


def pictures(count: int, seed: int = 0) -> np.ndarray:
    """Different real images of digits, uint8 N×1×8×8."""
    images = (load_digits().images * 15.9).astype(np.uint8)[:, None]
    return images[np.random.default_rng(seed).permutation(len(images))[:count]]


def flat(images: np.ndarray) -> torch.Tensor:
    return from_uint8(torch.from_numpy(images)).flatten(1).double()


def near(points: torch.Tensor, images: np.ndarray) -> float:
    """The distance of the nearest pair of a point and an image, or its mirror image."""
    both = torch.cat([flat(images), flat(images[..., ::-1].copy())])
    return float(torch.cdist(points.double(), both).min())


def guesses(start: SamplerStart, counts: list[int]) -> torch.Tensor:
    """What somebody would take from the file for an image, all N×d: see the list in the test."""
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
    [
        *(([1, 60, 40], False), ([1, 60, 40], True), ([2, 60, 40], True)),
        *(([12, 60, 40], True), ([1, 2, 30], False)),
    ],
    ids=str,
)
def test_no_image_of_a_person_can_be_read_from_the_file(counts, flip, tmp_path):
    """Each mean and center, each ± √(n−1) along its first axis, and all images minus classes."""
    images = pictures(sum(counts) + 400)
    train, test = images[: sum(counts)], images[sum(counts) :]
    if counts[0] == 2:
        train[1] = train[0][..., ::-1]  # a picture and its mirror image
    for number, picture in enumerate(train):
        person = np.searchsorted(np.cumsum(counts), number, side="right")
        (tmp_path / f"people/{person}").mkdir(parents=True, exist_ok=True)
        save_images(picture[None], tmp_path / f"people/{person}/{number}.png")
    dataset = ("dataset.name=people", f"dataset.flip={flip}", "dataset.image_size=8")
    dataset += ("dataset.channels=1", f"dataset.num_classes={len(counts)}")
    source = ("dataset=folder", "dataset.source.root=people")
    succeeded(call(tmp_path, "prepare", *source, *dataset))
    succeeded(call(tmp_path, "start", *source, *dataset, "classes=true"))
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
    with pytest.raises(UserError, match="9 different training images"):
        measure_start(np.concatenate([few[:9], few[:9, ..., ::-1]]), CPU, Start())
    given = torch.nn.Identity().eval(), (1, 8, 8), 0, 100
    with pytest.raises(UserError, match=r"\(9, 1, 8, 8\), not uint8 .* N ≥ 10"):
        psld.from_denoiser(*given, torch.from_numpy(few[:9]))


@pytest.fixture
def project(tmp_path, digits, model, monkeypatch) -> Path:
    """A folder with the prepared digits and a model of them, but no start."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/digits.h5").symlink_to(digits)
    shutil.copytree(model, tmp_path / "model", ignore=shutil.ignore_patterns("starts"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_start_is_made_once_for_all_models_when_it_is_needed(project, starts):
    """Also where there is one of other images."""
    stored = load_tensors(starts / "starts/digits.safetensors", "start", "")
    other = stored.origin | {"dataset": "0" * 64}
    save_tensors("starts/digits.safetensors", "start", stored.arrays, other)
    said = succeeded(call(project, "sample", "model=model", *FEW)).stdout
    assert "fitting a mixture" in said
    assert "not kept: starts/digits.safetensors: made of another dataset than is asked for" in said
    made = (project / "starts/digits.safetensors").read_bytes()
    assert made == (starts / "starts/digits.safetensors").read_bytes()
    other = ("process=vp-sde", "training.steps=2", "output=other")
    succeeded(call(project, "train", *TINY, *other))
    said = succeeded(call(project, "sample", "model=other", *FEW[:2], "output=y")).stdout
    assert "fitting" not in said
    assert (project / "starts/digits.safetensors").read_bytes() == made
    origin = load_tensors("x/00000.safetensors", "shard", "").origin["origin"]
    assert origin["start_sha256"] == load_tensors("starts/digits.safetensors", "start", "").sha256
    assert psld.load("model").sample(2, sampler="few", steps=0, label=3).shape == (2, 1, 8, 8)
    assert {file.name for file in (project / "starts").iterdir()} == {
        "digits.safetensors",
        "digits-classes.safetensors",
    }


def test_samples_of_another_start_are_not_kept(project, starts):
    shutil.copytree(starts / "starts", project / "starts")
    sample = ("sample", "model=model", *FEW)
    succeeded(call(project, *sample))
    file = project / "starts/digits.safetensors"
    stored = load_tensors(file, "start", "")
    save_tensors(file, "start", stored.arrays | {"means": -stored.arrays["means"]}, stored.origin)
    refused(call(project, *sample), 2, "00000.safetensors: made by another start_sha256")
    given = f"start={starts / 'starts/digits.safetensors'}"
    assert "kept" in succeeded(call(project, *sample, given)).stdout


WRONG: dict[str, Any] = {
    "made of another dataset": lambda stored: ({}, {"dataset": "0" * 64}),
    "made of another flip": lambda stored: ({}, {"flip": True}),
    "not a start": lambda stored: ({"levels": stored.arrays["levels"][0]}, {}),
    "not a start ": lambda stored: ({"weights": 0 * stored.arrays["weights"]}, {}),
    "not a start  ": lambda stored: ({"spreads": stored.arrays["spreads"] * np.nan}, {}),
    "not a start   ": lambda stored: ({"means": np.zeros((1, 1, 9, 9), np.float32)}, {}),
    "not a start    ": lambda stored: ({"rests": stored.arrays["rests"] * np.nan}, {}),
    "not a start     ": lambda stored: ({"axes": stored.arrays["axes"][:, 1:]}, {}),
}


@pytest.mark.parametrize("name", ["digits-flip", "digits-classes", "digits-flip-classes"])
def test_two_datasets_do_not_share_the_file_of_a_start(name, project):
    """That of `digits` with flips, or with classes, has the same name."""
    said = f"dataset.name={name}: a start needs a name without -flip or -classes at its end"
    refused(call(project, "start", f"dataset.name={name}"), 2, said)
    assert not (project / "starts").exists()


@pytest.mark.parametrize("said", WRONG)
def test_a_start_that_is_wrong_is_refused(said, model, starts, tmp_path):
    stored, file = load_tensors(starts / "starts/digits.safetensors", "start", ""), tmp_path / "x"
    arrays, origin = WRONG[said](stored)
    save_tensors(file, "start", stored.arrays | arrays, stored.origin | origin)
    with pytest.raises(UserError, match=f"{file}: {said.strip()}.*; make it again"):
        psld.load(model, start=file).sample(1, sampler="few")


def test_a_start_that_is_damaged_or_missing_without_its_images_is_one_line(project, starts):
    (project / "data/digits.h5").unlink()
    sample = ("sample", "model=model", *FEW)
    remedy = "run psld prepare dataset=digits, or give start=FILE"
    refused(call(project, *sample), 2, "starts/digits.safetensors: no such file", remedy)
    (project / "starts").mkdir()
    whole = (starts / "starts/digits.safetensors").read_bytes()
    (project / "starts/digits.safetensors").write_bytes(whole[:-1])
    refused(call(project, *sample), 2, "starts/digits.safetensors: damaged", remedy)
    # That of an earlier version, in the model's folder, is ignored.
    (project / "model/start.safetensors").write_bytes(whole)
    refused(call(project, *sample), 2, "starts/digits.safetensors: damaged", remedy)
    refused(call(project, *sample, "start=nowhere.safetensors"), 2, "nowhere.safetensors: no such")
    wrong = call(project, *sample[:2], "output=x", "sampler=em", "start=nowhere.safetensors")
    refused(wrong, 2, "start: the sampler starts from the prior")


def test_what_a_start_is_made_of_is_said_in_its_settings(project, starts):
    coarse = ("start.components=[4]", "start.directions=[10]", "start.shares=[1,0.6]")
    succeeded(call(project, "start", *coarse, "output=coarse.safetensors"))
    origin = load_tensors("coarse.safetensors", "start", "").origin
    manifest = json.loads(Path("model/manifest.json").read_text())
    how = Start(components=(4,), directions=(10,), shares=(1, 0.6)).model_dump(mode="json")
    assert origin["settings"] == how
    assert origin["dataset"] == manifest["dataset_digest"]
    usual = psld.load("model", start=starts / "starts/digits.safetensors").start
    start = psld.load("model", start="coarse.safetensors").start
    assert start.data.components() == [4]
    deviation = start.data.largest_deviations()
    torch.testing.assert_close(start.levels[1], (0.6 * deviation).clamp(min=0.5))
    torch.testing.assert_close(start.levels[0], usual.levels[0] / 0.75)


def test_steps_0_with_a_class_need_a_law_of_each_class(project, starts):
    """A class of fewer than ten images has none, and no network is evaluated."""
    stored = load_tensors(starts / "starts/digits.safetensors", "start", "")
    origin = stored.origin | {"classes": True}
    save_tensors("starts/digits-classes.safetensors", "start", stored.arrays, origin)
    with pytest.raises(UserError, match="fewer than ten different"):
        psld.load("model").sample(2, sampler="few", steps=0, label=3)


@pytest.mark.parametrize("flip", [False, True])
def test_images_that_the_fit_leaves_out_are_no_fewer_than_ten(flip, monkeypatch):
    """The mean of all images and that of the mixture give the sum of those that it has not seen."""
    monkeypatch.setattr("psld.training.start.MOST_IMAGES", 200)
    monkeypatch.setattr("psld.training.start._best", lambda *_: (2, 20))
    count = 201 if not flip else 101
    images = pictures(count + 400)
    start = measure_start(images[:count], CPU, Start(), flip=flip).data
    assert start.components() == [2]
    into = start.basis.double() @ start.axes[0].double()
    middle = (start.weights[0, :, None] * start.centers[0]).sum(0).double()
    for taken in range(1, count):
        guess = start.means[0].double() - taken * (into @ middle) / (count - taken)
        known = flat(images[:count]) @ into @ into.T
        assert float((guess @ into @ into.T - known).norm(dim=1).min()) > 0.5


def test_a_start_with_classes_serves_samplers_without(project, starts):
    given = f"start={starts / 'starts/digits-classes.safetensors'}"
    succeeded(call(project, "sample", "model=model", *FEW, given))
