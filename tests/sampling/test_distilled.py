"""A student of a denoiser: pairs, training from a cell, sampling with one evaluation, refusals."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import psld
from psld.data.units import to_uint8
from psld.models.build import facts_of
from psld.sampling.distilled import Distilled
from psld.sampling.model import load_model
from psld.sampling.named import compose_named
from psld.sampling.shards import Shard
from psld.utils.errors import UserError
from tests.commands import TINY, call, refused, succeeded
from tests.grid.mine import load, with_models
from tests.training.small import check_equal

CPU = torch.device("cpu")
TEACHER = (*TINY, "training.objective=denoiser", "process=psld")
PAIRS = ("sampler=few", "sampler.eta=0", "shard_size=6", "shards=2", "seed=3", "device=cpu")
CLASSES = ("guidance@sampler.guidance=classifier-free", "sampler.guidance.label=[2,5]")
PLAIN = (*CLASSES, "sampler.guidance.scale=1")
ONCE = {"sampler": "few", "steps": 1}


@pytest.fixture(scope="module")
def made(digits, starts, tmp_path_factory) -> Path:
    """A folder with two small denoisers, one of them with classes, and a cell of samples of each
    denoiser."""
    folder = tmp_path_factory.mktemp("teacher")
    shutil.copytree(starts / "starts", folder / "starts")
    (folder / "data").mkdir()
    (folder / "data/digits.h5").symlink_to(digits)
    succeeded(call(folder, "train", *TEACHER, "training.steps=4", "name=teacher"))
    labelled = ("training.label_dropout=0.2", "training.steps=4", "name=labelled")
    succeeded(call(folder, "train", *TEACHER, *labelled))
    sample(folder, "plain")
    sample(folder, "classes", *PLAIN, "process=vp-sde", teacher="labelled")
    return folder


@pytest.fixture
def folder(made, tmp_path) -> Path:
    return shutil.copytree(made, tmp_path / "copy", symlinks=True)


def sample(folder: Path, cell: str, *words: str, steps: int = 1, teacher: str = "teacher") -> None:
    given = (*PAIRS, f"sampler.steps={steps}", f"model=by-hand/{teacher}", f"output={cell}")
    succeeded(call(folder, "sample", *given, *words))


def train(folder: Path, cell: str = "plain", *words: str, teacher: str = "teacher"):
    objective = f"training.objective={{kind: distilled, cell: {cell}}}"
    given = [*TEACHER, objective, "training.steps=6", "training.checkpoint_every=3", "name=student"]
    given += [f"init.model=by-hand/{teacher}"] if teacher else []
    given += ["training.label_dropout=0.2"] if teacher == "labelled" else []
    return call(folder, "train", *given, *words)


@pytest.mark.parametrize(("cell", "teacher"), [("plain", "teacher"), ("classes", "labelled")])
def test_a_pair_has_a_start_and_the_image_that_is_sampled_from_it(cell, teacher, made, monkeypatch):
    """With one evaluation, this image is the prediction at the start."""
    monkeypatch.chdir(made)
    model = load_model(f"models/by-hand/{teacher}", CPU)
    facts = replace(facts_of(model.settings, model.process), init=f"by-hand/{teacher}")
    pairs = Distilled(cell=cell).noising(facts)
    chosen = pairs.levels(torch.tensor([0.0, 0.3, 0.6, 0.999999]))
    x, (y, sigma, *labels) = pairs.chosen(chosen, CPU)
    assert [each.tolist() for each in labels] == ([] if cell == "plain" else [[2, 5, 5, 5]])
    level = model.start_for(bool(labels)).level(classes=[2, 5] if labels else [])
    assert sigma.unique().tolist() == [pytest.approx(level)]
    predicted = model.network(y, sigma, *labels).clamp(-1, 1)
    torch.testing.assert_close(x, predicted, rtol=0, atol=0.009)
    shards = [Shard.load(f"{cell}/0000{i}.safetensors").images for i in (0, 1)]
    assert to_uint8(x).equal(torch.cat([*map(torch.from_numpy, shards)])[[0, 3, 7, 11]])
    later, _ = Distilled(cell=cell, first=1).noising(facts).chosen(torch.tensor([1, 5]), CPU)
    assert later.equal(x[2:]), "from the second shard on"
    with pytest.raises(UserError, match=rf"training\.objective\.first: {cell} has no shard 2"):
        Distilled(cell=cell, first=2).noising(facts)


def test_a_student_trains_and_samples_in_one_evaluation_as_every_process(folder, monkeypatch):
    trained = succeeded(train(folder, "plain", "training.preview_every=3"))
    assert "starting from by-hand/teacher\n" in trained.stdout
    monkeypatch.chdir(folder)
    student = psld.load("models/by-hand/student")
    for process in (None, "vp-sde"):
        assert student.sample(3, **ONCE, process=process).shape == (3, 1, 8, 8)
    with pytest.raises(UserError, match=r"0\.7 to 0\.7, but .* accepts 0\.5\d* .*leave out"):
        student.sample(3, **ONCE, start_level=0.7)
    for options in ({"sampler": "em"}, {"sampler": "few"}, ONCE | {"start": "gaussian"}):
        with pytest.raises(UserError, match=r"a single noise level, .*, and no guidance"):
            student.sample(3, **options)
    with pytest.raises(UserError, match="the student accepts a single noise level"):
        psld.denoiser(student)
    likelihood = (
        "likelihood",
        "model=by-hand/student",
        "data=data/digits.h5",
        "output=likelihood.json",
    )
    refused(call(folder, *likelihood), 2, "its noise levels are", "the denoiser accepts 0.5")


def test_a_null_setting_of_the_sampler_is_recorded_with_the_samples(folder):
    """Without the recorded null, the default would be used."""
    sample(folder, "everywhere", "sampler.eta_interval=null")
    succeeded(train(folder, "everywhere", "training.steps=1"))


def test_a_student_with_classes_takes_one_evaluation_and_no_other_guidance(folder):
    succeeded(train(folder, "classes", "training.steps=2", teacher="labelled"))
    words = (
        "model=by-hand/student",
        "sampler=few",
        "sampler.steps=1",
        "shard_size=2",
        "output=out",
    )
    one = (*words, *PLAIN[:1], "sampler.guidance.label=3", "sampler.guidance.scale=1")
    assert "shard 0: 2 images, NFE 1" in succeeded(call(folder, "sample", *one)).stdout
    refused(call(folder, "sample", *words, *CLASSES), 2, "and no guidance; use")


def test_the_training_of_a_student_resumes_bit_identically(folder):
    succeeded(train(folder))
    [run] = folder.glob("runs/student-*")
    whole = load_file(run / "model/weights.safetensors")
    for file in ("checkpoints/checkpoint-00000006.pt", "model/manifest.json"):
        (run / file).unlink()
    assert "resuming from step 3" in succeeded(train(folder)).stdout
    check_equal(load_file(run / "model/weights.safetensors"), whole)


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["sampler.eta=1"], "sampler.eta: 1.0"),
        (["sampler.root=flow"], "sampler.root: flow"),
        (["sampler.denoise=false"], "sampler.denoise: False"),
        (["sampler=multistep", "sampler.eta=0"], "sampler.start: prior"),
        ([*CLASSES], "sampler.guidance: "),
    ],
)
def test_samples_that_the_start_does_not_determine_are_refused(words, wrong):
    content = compose_named([*PAIRS[:2], "sampler.steps=2", *words], "test")
    with pytest.raises(
        UserError, match=f"{wrong}.*; sample the cell with sampler=few sampler.eta=0"
    ):
        Distilled(cell="x").check_cell(content.sampler)


def test_a_shard_that_its_record_does_not_list_is_refused(folder):
    path = folder / "plain/00001.safetensors"
    shard = Shard.load(path)
    replace(shard, images=255 - shard.images).save(path)
    refused(train(folder), 2, "plain: shard 1 differs from its record")


def test_samples_of_another_dataset_start_or_teacher_are_refused(folder):
    refused(train(folder, teacher=""), 2, "starts from the weights of its teacher", "init.model")
    flipped = train(folder, "plain", "dataset.flip=true")
    refused(flipped, 2, "training.objective.cell: plain: its model was trained on dataset digits")
    sample(folder, "other", "sampler.eta=1", steps=2)
    refused(train(folder, "other"), 2, "training.objective.cell: other: sampler.eta: 1.0")
    sample(folder, "unlabelled", teacher="labelled")
    refused(train(folder, "unlabelled", teacher="labelled"), 2, "the network is class-conditional")
    succeeded(call(folder, "start", "start.directions=[10]", "output=starts/digits.safetensors"))
    place = "training.objective.cell: plain/00000.safetensors"
    refused(train(folder), 2, place, "a different start_sha256")
    succeeded(call(folder, "train", *TEACHER, "training.steps=3", "name=teacher"))
    refused(train(folder), 2, place, "a different weights_sha256")
    refused(train(folder, "nothing"), 2, "nothing: no samples of a cell")


def test_a_grid_with_a_wrong_cell_is_refused_when_it_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs/grid").mkdir(parents=True)
    teacher = ["process=psld", "training.objective=denoiser"]
    student = ["process=psld", "training=student", "training.objective.cell=base/em-20"]
    content = with_models({"base": teacher}) | {"defaults": ["dataset=digits", "network=demo"]}
    content["models"]["mine"] = {"starts_from": "base", "overrides": student}
    said = r"models\.mine: training\.objective\.cell: sampler\.integrator: em cannot be distilled"
    with pytest.raises(UserError, match=said):
        load(tmp_path / "configs", content)


def test_a_student_of_two_levels_learns_on_the_line_between_start_and_image(folder, monkeypatch):
    """This objective belongs to the study studies/one."""
    objective = "training.objective={kind: studies.one.two:Twice, cell: plain, fall: 4}"
    succeeded(train(folder, "plain", objective))
    monkeypatch.chdir(folder)
    student = psld.load("models/by-hand/student")
    low, high = student.levels
    part, facts = student.settings.training.objective, facts_of(student.settings, student.process)
    pairs = part.noising(replace(facts, init="by-hand/teacher"))
    x, (y, *_) = pairs.chosen(torch.arange(12), CPU)
    seen = []
    batch = SimpleNamespace(noising=pairs, t=torch.arange(12), x0=x)
    part.loss(lambda *given: seen.append(given) or y, batch)
    [(states, levels)] = seen
    torch.testing.assert_close(levels.view(6, 2), torch.tensor([[high, high / 4]]).expand(6, 2))
    assert states[0::2].equal(x[0::2] + (y - x)[0::2])
    torch.testing.assert_close(states[1::2], (0.75 * x + 0.25 * y)[1::2])
    assert low == pytest.approx(high / 4)
    twice = {"sampler": "few", "steps": 2, "eta": 0, "fall": 4}
    assert student.sample(3, **twice).shape == (3, 1, 8, 8)
    assert student.sample(3, **ONCE).shape == (3, 1, 8, 8)
    for wrong, said in (({"steps": 3}, "steps=1"), ({"eta": 1}, "eta=0"), ({"fall": 3}, "fall=4")):
        with pytest.raises(UserError, match=said):
            student.sample(3, **twice | wrong)
