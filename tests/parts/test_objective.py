"""A custom objective: training, sampling, bit-identical resumption, and refusals."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import psld
from psld.commands.main import program, settings_of
from psld.config.kinds import SHIPPED
from psld.data.store import ImageStore
from psld.diffusion.denoiser import StraightDenoiser
from psld.diffusion.settings import NoiseLaw
from psld.models.build import build_process
from psld.models.manifest import GuideManifest, ModelManifest, read_manifest
from psld.models.objectives import Objective
from psld.models.start import deviation
from psld.sampling.model import LoadedModel
from psld.training.files import TrainingHistory
from psld.utils.errors import UserError
from tests.commands import TINY, call, refused, succeeded
from tests.grid.mine import load, with_models
from tests.parts.contract import check_settings
from tests.parts.own import OBJECTIVES, write

TAUGHT = """
from functools import cache

import psld
import torch
from psld.parts import CellRead, Guidance, Guide, ModelRead, Objective


@cache
def network(name):
    return psld.load(name).network


class Taught(Objective):
    teacher: ModelRead

    def loss(self, module, batch):
        z, t = batch.noisy()
        with torch.no_grad():
            target = network(self.teacher.name)(z, t)
        return (module(z, t) - target).square().mean()


class Student(Guide):
    teacher: ModelRead


class Pull(Guidance):
    teacher: ModelRead


class Pairs(Objective):
    cell: CellRead

    def loss(self, module, batch):
        z, t = batch.noisy()
        return (module(z, t) - batch.target).square().mean()
"""
RECIPE = (*TINY, "training.steps=2")
FEW_USES = """
from losses import Absolute


class Few(Absolute):
    uses = frozenset({"time_eps"})
"""


class Third(torch.nn.Linear):
    def __init__(self):
        super().__init__(1, 1)

    def forward(self, y, sigma):
        return y / 3


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path, losses=OBJECTIVES)


@pytest.mark.parametrize("kind", [*SHIPPED["objective"], "losses:Absolute"])
def test_the_contract_of_an_objective(folder, kind, monkeypatch):
    monkeypatch.chdir(folder)
    needed = {"cell": "samples/demo/denoiser/few-10"} if kind == "distilled" else {}
    check_settings(Objective, {"kind": kind, **needed})


@pytest.mark.parametrize("word", ["noise_law={center: 0.5}", "label_dropout=0.1"])
def test_a_setting_that_the_objective_does_not_use_is_refused(folder, digits, word):
    """Otherwise, the setting could change the weights without being part of their identity."""
    write(folder, few=FEW_USES)
    words = ("training.objective=few:Few", f"data={digits}", "training.time_eps=1e-4", *RECIPE)
    said = f"training.objective: `uses` of few:Few does not list {word.partition('=')[0]}"
    refused(call(folder, "train", *words, f"training.{word}"), 2, said)
    assert not (folder / "runs").exists()


def test_a_custom_objective_trains_and_its_model_is_sampled(folder, digits):
    words = ("training.objective=losses:Absolute", f"data={digits}", "name=mine", *RECIPE)
    succeeded(call(folder, "train", *words))
    sample = ("model=by-hand/mine", "output=samples", "shard_size=2", "sampler.steps=3")
    assert "shard 0: 2 images, NFE 3" in succeeded(call(folder, "sample", *sample)).stdout


def test_an_objective_on_images_is_sampled_and_may_refuse_a_sampler(folder, digits):
    words = ("training.objective=losses:AbsoluteImage", f"data={digits}", "name=mine", *RECIPE)
    succeeded(call(folder, "train", *words))
    sample = ("sample", "model=by-hand/mine", "output=samples", "shard_size=2", "sampler.steps=3")
    assert "shard 0: 2 images, NFE 3" in succeeded(call(folder, *sample)).stdout
    refused(call(folder, *sample, "sampler=sscs"), 2, "not with sscs")


MINUS = """
from psld.parts import Objective


class Minus(Objective):
    def eps(self, module, process):
        return lambda *given: -module(*given)


class MinusImage(Objective):
    sees_images = True

    def eps(self, module, process):
        return super().eps(lambda *given: -module(*given), process)
"""


def minus(model, name: str) -> LoadedModel:
    """Return a model whose manifest names another objective."""
    loaded, objective = psld.load(model), Objective.model_validate(f"minus:{name}")
    changed = {"objective": objective, "noise_law": NoiseLaw()}
    training = loaded.settings.training.model_copy(update=changed)
    settings = loaded.settings.model_copy(update={"training": training})
    return replace(loaded, settings=settings, process=build_process(settings))


def test_a_denoiser_uses_the_eps_of_the_objective(model, tmp_path, monkeypatch):
    monkeypatch.chdir(write(tmp_path, minus=MINUS))
    loaded, y = minus(model, "Minus"), torch.randn(2, 1, 8, 8)
    denoise = psld.denoiser(loaded, n=2)
    negative = StraightDenoiser(loaded.process, lambda *z: -loaded.network(*z), denoise.frozen)
    assert torch.equal(denoise(y, 0.5), negative(y, 0.5))
    with_image = replace(minus(model, "MinusImage"), network=Third())
    torch.testing.assert_close(psld.denoiser(with_image, n=2)(y, 0.5), -y / 3)


TWO = """
import torch
from psld.parts import Objective


class Body(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network, self.log = network, torch.nn.Linear(1, 1)

    def forward(self, z, t):
        self.hidden = self.network(z, t)
        return (self.hidden, self.log(t[:, None]).mean()) if self.training else self.hidden


class Weighted(Objective):
    def wrap(self, network, facts):
        return Body(network)

    def loss(self, module, batch):
        eps, log = module(*batch.noisy())
        return (eps - batch.target).square().mean() * (-log).exp() + log

    def preview(self, *given):
        return {"one": 1.0, "half": torch.tensor(0.5), "none": float("nan"), "step": 7}

"""


def test_the_wrapped_module_may_add_weights_and_logged_values(tmp_path, digits):
    write(tmp_path, two=TWO)
    words = ("training.objective=two:Weighted", f"data={digits}", "name=mine", *RECIPE)
    words += ("training.precision=bf16", "training.preview_every=1")
    succeeded(call(tmp_path, "train", *words))
    weights = load_file(tmp_path / "models/by-hand/mine/weights.safetensors")
    assert weights["log.bias"] != 0
    entry = TrainingHistory.read(tmp_path / "models/by-hand/mine/history.json").entries[-1]
    extra = entry.model_extra
    assert (extra["one"], extra["half"], "none" in extra) == (1.0, 0.5, False)
    assert entry.step == 2, "a number of the loop's own stays"


SCALED = """
import torch
from psld.parts import Objective


class Scaled(torch.nn.Module):
    def __init__(self, network, s):
        super().__init__()
        self.network, self.s = network, s

    def forward(self, z, t):
        return self.network(z / self.s, t)


class OfImages(Objective):
    needs_deviation = True

    def wrap(self, network, facts):
        return Scaled(network, facts.deviation)

    def loss(self, module, batch):
        return (module(*batch.noisy()) - batch.target).square().mean()
"""


def test_the_deviation_is_restored_in_a_module_that_stores_it_as_a_number(
    tmp_path, digits, monkeypatch
):
    monkeypatch.chdir(write(tmp_path, scaled=SCALED))
    words = ("training.objective=scaled:OfImages", f"data={digits}", "name=mine", *RECIPE)
    succeeded(call(tmp_path, "train", *words))
    store = ImageStore.open(digits)
    loaded = psld.load("models/by-hand/mine")
    assert loaded.network.s == pytest.approx(deviation(store, flip=False))
    psld.save("again", loaded.network, loaded.settings)
    assert psld.load("again").network.s == loaded.network.s


def test_the_objective_of_a_guide_cannot_train_a_model(folder, digits):
    words = (f"data={digits}", *RECIPE)
    refused(call(folder, "train", "training.objective=guide", *words), 2, "use psld train_guide")
    guide = ("train_guide", "training.objective=losses:Absolute", f"data={digits}")
    refused(call(folder, *guide), 2, "training.objective: trains a model; use psld train")


BELOW = """
from psld.parts import Denoiser, Guide


class Near(Denoiser):
    uses = {"noise_law"}

    def loss(self, module, batch):
        return (module(*batch.noisy()) - batch.x0).abs().mean()


class Sure(Guide):
    power: float = 2.0

    def loss(self, module, batch):
        return super().loss(module, batch) ** self.power
"""


@pytest.mark.parametrize(
    ("command", "kind", "name"), [("train", "Near", "models"), ("train_guide", "Sure", "guides")]
)
def test_without_its_code_an_objective_keeps_its_properties(tmp_path, digits, command, kind, name):
    """For a subclass of a denoiser or guide, the class determines the meaning of its settings."""
    write(tmp_path, below=BELOW)
    words = (f"training.objective=below:{kind}", f"data={digits}", "name=mine", *RECIPE)
    succeeded(call(tmp_path, command, *words))
    folder = tmp_path / name / "by-hand/mine"
    known = read_manifest(folder, ModelManifest if name == "models" else GuideManifest)
    assert known.settings.training.objective.is_data
    assert known.settings.serves_every_process == (kind == "Near")
    written = known.settings.training.objective.model_dump(mode="json")
    assert written["makes"] == command.removeprefix("train_").replace("train", "model")
    again = ("training.objective=" + json.dumps(written).replace('"', ""), *words[1:])
    assert "nothing new" in succeeded(call(tmp_path, command, *again)).stdout


def test_an_objective_may_read_a_model_or_a_cell(digits, tmp_path):
    """Other samples in the same folder give another training; other records of these samples do
    not."""
    folder = write(tmp_path, taught=TAUGHT)
    succeeded(call(folder, "train", f"data={digits}", "name=base", *RECIPE))
    words = ("training.objective=taught:Taught", f"data={digits}", "name=mine", *RECIPE)
    teacher = "training.objective.teacher=by-hand/base"
    refused(call(folder, "train", *words), 2, "training.objective.teacher is missing")
    refused(call(folder, "train", *words, f"{teacher}s"), 2, "by-hand/bases: no such model")
    succeeded(call(folder, "train", *words, teacher))
    manifest = read_manifest(folder / "models/by-hand/mine")
    base = read_manifest(folder / "models/by-hand/base")
    objective = manifest.settings.identity()["training"]["objective"]
    assert objective["teacher"] == {"digest": base.weights_sha256}

    sample = ("model=by-hand/base", "shard_size=2", "sampler.steps=2", "output=pairs")
    words = ("training.objective=taught:Pairs", *words[1:], "training.objective.cell=pairs")
    refused(call(folder, "train", *words), 2, "pairs: no samples of a cell")
    succeeded(call(folder, "sample", *sample, "shards=2"))
    succeeded(call(folder, "train", *words))
    for first in ("first=0", "first=1"):
        succeeded(call(folder, "sample", *sample, first, "shards=1"))
    assert "nothing new" in succeeded(call(folder, "train", *words)).stdout
    succeeded(call(folder, "sample", *sample, "shards=3"))
    assert "replaces the weights" in succeeded(call(folder, "train", *words)).stdout


@pytest.fixture
def configs(tmp_path, monkeypatch) -> Path:
    """Write a folder configs/ next to parts that read models or samples."""
    monkeypatch.chdir(write(tmp_path, taught=TAUGHT))
    (tmp_path / "configs/grid").mkdir(parents=True)
    return tmp_path / "configs"


def taught(kind: str, teacher: str) -> list[str]:
    words = (f"training.objective=taught:{kind}", f"training.objective.teacher={teacher}")
    return ["process=psld", *words]


def test_in_a_grid_a_part_of_a_training_reads_a_model_of_the_grid(configs):
    content = with_models({"mine": taught("Taught", "base"), "base": ["process=psld"]})
    content["guides"] = {"mine": ["dataset=digits", *taught("Student", "base")]}
    grid = load(configs, content)
    for record in (grid.models["mine"], grid.guides["mine"]):
        objective = record.settings.model().identity()["training"]["objective"]
        assert objective["teacher"] == {"digest": grid.models["base"].digest}
        assert record.reads == ["models/mine/base/manifest.json"]
    by_hand = settings_of(program("train").command, ["model=mine/mine", "training.micro_batch=1"])
    assert by_hand.model().identity() == grid.models["mine"].settings.model().identity()
    circle = {"mine": taught("Taught", "base"), "base": taught("Taught", "mine")}
    with pytest.raises(UserError, match="circular reference: mine → base → mine"):
        load(configs, with_models(circle))
    pull = ["sampler=em", "guidance@sampler.guidance=taught:Pull", "sampler.guidance.teacher=base"]
    samplers = {"em": {"overrides": pull, "budget": "sampler.steps"}}
    with pytest.raises(UserError, match="taught:Pull: reads a model; only a part of a training"):
        load(configs, with_models({"base": ["process=psld"]}) | {"samplers": samplers})


def test_in_a_grid_an_objective_reads_a_cell_of_the_grid(configs):
    pairs = ["training.objective=taught:Pairs", "training.objective.cell=base/em-20"]
    models = {"mine": ["process=psld", *pairs], "base": ["process=psld"]}
    grid = load(configs, with_models(models))
    cell, mine = grid.cells["base/em-20"], grid.models["mine"]
    objective = mine.settings.model().identity()["training"]["objective"]
    more = load(configs, with_models(models) | {"samples": 200})
    assert more.cells["base/em-20"].digest == cell.digest, "which has no number of samples"
    assert more.models["mine"].digest != mine.digest, "what is read has one"
    assert objective["cell"].keys() == {"digest"}
    assert mine.settings.training.objective.cell.name == cell.folder
    assert mine.reads == cell.records != []
    seeds = load(configs, with_models(models) | {"seeds": {"training": [0, 1]}})
    assert seeds.models["mine-seed1"].reads == seeds.cells["base-seed1/em-20"].records, "its own"
    assert seeds.models["mine"].reads == cell.records
    models["mine"][-1] = "training.objective.cell=base/em-21"
    with pytest.raises(UserError, match=r"models\.mine: no cell 'base/em-21' in"):
        load(configs, with_models(models))
