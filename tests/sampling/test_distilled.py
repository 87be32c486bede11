"""A student of a denoiser: its pairs, its training from a cell, its one evaluation, refusals."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import psld
from psld.data.store import to_uint8
from psld.sampling.pairs import Pairs
from psld.sampling.shards import Shard
from psld.training.model import facts_of, load_model
from psld.utils.errors import UserError
from tests.commands import TINY, call, refused, succeeded
from tests.training.small import check_equal

CPU = torch.device("cpu")
TEACHER = (*TINY, "training.objective=denoiser", "process=psld", "training.label_dropout=0.2")
PAIRS = ("sampler=few", "sampler.eta=0", "shard_size=6", "shards=2", "seed=3", "device=cpu")
CLASSES = ("guidance@sampler.guidance=classifier-free", "sampler.guidance.label=[2,5]")


@pytest.fixture(scope="module")
def made(digits, starts, tmp_path_factory) -> Path:
    """A folder with a small class-conditional denoiser and two cells of its samples."""
    folder = tmp_path_factory.mktemp("teacher")
    shutil.copytree(starts / "starts", folder / "starts")
    (folder / "data").mkdir()
    (folder / "data/digits.h5").symlink_to(digits)
    succeeded(call(folder, "train", *TEACHER, "training.steps=30", "name=teacher"))
    sample(folder, "plain")
    sample(folder, "classes", *CLASSES, "sampler.guidance.scale=1", "process=vp-sde")
    return folder


@pytest.fixture
def folder(made, tmp_path) -> Path:
    return shutil.copytree(made, tmp_path / "copy", symlinks=True)


def sample(folder: Path, cell: str, *words: str, steps: int = 1) -> None:
    given = (*PAIRS, f"sampler.steps={steps}", "model=by-hand/teacher", f"output={cell}")
    succeeded(call(folder, "sample", *given, *words))


def train(folder: Path, cell: str = "plain", *words: str, teacher: str = "by-hand/teacher"):
    objective = f"training.objective={{kind: distilled, cell: {cell}}}"
    given = (
        *TEACHER,
        objective,
        *([f"init.model={teacher}"] if teacher else []),
        "training.steps=6",
    )
    given = (*given, "training.checkpoint_every=3", "name=student")
    return call(folder, "train", *given, *words)


@pytest.mark.parametrize("cell", ["plain", "classes"])
def test_a_pair_is_a_start_and_what_the_sampler_makes_of_it(cell, made, monkeypatch):
    """Of one evaluation: the prediction at the start."""
    monkeypatch.chdir(made)
    teacher = load_model("models/by-hand/teacher", CPU)
    facts = facts_of(teacher.settings, teacher.process)
    pairs = Pairs(cell, (), facts.__class__(**vars(facts) | {"init": "by-hand/teacher"}))
    uniform = torch.tensor([0.0, 0.3, 0.6, 0.999999])
    x, (y, sigma, *labels) = pairs.chosen(pairs.levels(uniform), CPU)
    assert [each.tolist() for each in labels] == ([] if cell == "plain" else [[2, 5, 5, 5]])
    level = teacher.start_for(bool(labels)).level(classes=[2, 5] if labels else [])
    assert sigma.unique().tolist() == [pytest.approx(level)]
    torch.testing.assert_close(
        x, teacher.network(y, sigma, *labels).clamp(-1, 1), rtol=0, atol=0.009
    )
    images = torch.cat(
        [torch.from_numpy(Shard.load(f"{cell}/0000{i}.safetensors").images) for i in (0, 1)]
    )
    assert to_uint8(x).equal(images[[0, 3, 7, 11]])


def test_it_learns_and_is_sampled_in_one_evaluation_as_every_process(folder, monkeypatch):
    assert (
        "starting from by-hand/teacher\n"
        in succeeded(train(folder, "plain", "training.preview_every=3")).stdout
    )
    [run] = folder.glob("runs/student-*")
    assert len([*run.glob("previews/*")]) == 2
    monkeypatch.chdir(folder)
    student = psld.load("models/by-hand/student")
    for process in (None, "vp-sde"):
        assert student.sample(3, sampler="few", steps=1, process=process).shape == (3, 1, 8, 8)
    with pytest.raises(UserError, match=r"levels are 0\.7 to 0\.7, and the denoiser takes 0\.5"):
        student.sample(3, sampler="few", steps=1, start_level=0.7)
    for options in (
        {"sampler": "em"},
        {"sampler": "few"},
        {"sampler": "few", "start": "gaussian", "steps": 1},
    ):
        with pytest.raises(UserError, match="one noise level, that of its start; use sampler=few"):
            student.sample(3, **options)


def test_with_classes_it_takes_one_evaluation_too(folder):
    succeeded(train(folder, "classes"))
    words = (
        "model=by-hand/student",
        "sampler=few",
        "sampler.steps=1",
        "output=out",
        "shard_size=2",
    )
    guided = (*words, *CLASSES, "sampler.guidance.scale=1")
    assert "shard 0: 2 images, NFE 1" in succeeded(call(folder, "sample", *guided)).stdout


def test_it_goes_on_to_the_bit(folder):
    succeeded(train(folder))
    [run] = folder.glob("runs/student-*")
    whole = load_file(run / "model/weights.safetensors")
    for file in ("checkpoints/checkpoint-00000006.safetensors", "model/manifest.json"):
        (run / file).unlink()
    assert "going on from step 3" in succeeded(train(folder)).stdout
    check_equal(load_file(run / "model/weights.safetensors"), whole)


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["sampler.eta=1"], "sampler.eta is 1.0"),
        (["sampler.root=flow"], "sampler.root is flow"),
        (["sampler=multistep", "sampler.eta=0"], "sampler.start is missing"),
        ([*CLASSES], "sampler.guidance is {'kind': 'classifier-free'"),
    ],
)
def test_samples_that_their_start_does_not_decide_are_refused(words, wrong, folder):
    sample(folder, "other", *words, steps=2)
    refused(train(folder, "other"), 2, f"training.objective.cell: other: {wrong}", "sampler.eta=0")
    assert not [*folder.glob("runs/student-*")]


def test_samples_of_other_weights_or_of_another_start_are_refused(folder):
    refused(train(folder, teacher=""), 2, "starts from the model of its cell", "init.model")
    succeeded(call(folder, "start", "start.directions=[10]", "output=starts/digits.safetensors"))
    refused(train(folder), 2, "plain/00000.safetensors", "another start_sha256")
    succeeded(call(folder, "train", *TEACHER, "training.steps=3", "name=teacher"))
    refused(train(folder), 2, "plain/00000.safetensors", "another weights_sha256")
    refused(train(folder, "nothing"), 2, "nothing: no samples of a cell")
