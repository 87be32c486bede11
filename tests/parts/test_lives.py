"""Reruns and restarts: a training that has begun keeps its code; a new training uses the current
file."""

import shutil
import sys
from pathlib import Path

import pytest
import torch

import psld
from psld.commands.launch import TRAININGS, custom_parts
from psld.commands.main import program, run_command, settings_of
from psld.config.settings import in_hydra, parse
from psld.grid.cache import load_grid
from psld.models.build import build, build_process, check_rebuilt, try_loss
from psld.parts import Network, Objective
from psld.training.run import loss_of
from psld.training.state import Checkpoints
from psld.utils.errors import UserError
from tests.commands import TINY, call, fresh_modules, refused, run, run_directory, succeeded
from tests.grid.mine import load, with_models
from tests.parts.own import edit, with_network

QUIET = [word for word in TINY if not word.startswith("network.")]
LIFE = (*QUIET, "network=mynets:Mixer", "training.steps=6", "training.checkpoint_every=3")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(with_network(tmp_path))
    return tmp_path


def test_a_training_resumes_with_its_copy_of_the_code(folder, digits):
    """The copy also serves functions that import a helper late. A training does not read
    settings.json, which may name other code."""
    with fresh_modules():
        part = parse(Network, {"kind": "mynets:Mixer"}, "x").model_dump(mode="json")
    words = (*LIFE, f"data={digits}", "name=x", f"network={in_hydra(part)}")
    succeeded(call(folder, "train", *words))
    weights = folder / "models/by-hand/x/weights.safetensors"
    whole, directory = weights.read_bytes(), run_directory(folder)
    Checkpoints(directory / "checkpoints").path(6).unlink()
    shutil.rmtree(directory / "model")
    shutil.rmtree(folder / "models")
    edit(folder / "mylayers.py", "padding=1", "padding=1, bias=False")
    assert "resuming from step 3" in succeeded(call(folder, "train", *words)).stdout
    assert weights.read_bytes() == whole
    copy = next((directory / "parts").glob("*/mylayers.py"))
    edit(copy, "padding=1", "padding=2")
    shutil.rmtree(directory / "model")
    refused(call(folder, "train", *words), 2, "its network mynets:Mixer has code ")
    shutil.rmtree(directory / "parts")
    refused(call(folder, "train", *words), 2, "get that version back, or plan again")


PACKAGE = {
    "__init__": "",
    "a": """
from mynets import Net
from psld.parts import Network, Objective


class Late(Network):
    def build(self, i, o, size, classes):
        from nets.late import WIDTH

        return Net(i, o, WIDTH)
""",
    "b": """
from psld.parts import Objective


class Absolute(Objective):
    def loss(self, module, batch):
        z, t = batch.noisy()
        return (module(z, t) - batch.target).abs().mean()
""",
    "late": "WIDTH = 6\n",
}


def test_two_parts_of_one_package_run_from_their_copies(folder, digits, tmp_path_factory):
    for name, text in PACKAGE.items():
        (folder / "nets").mkdir(exist_ok=True)
        (folder / f"nets/{name}.py").write_text(text)
    with fresh_modules():
        parts = (
            ("network", parse(Network, {"kind": "nets.a:Late"}, "x")),
            ("training.objective", parse(Objective, {"kind": "nets.b:Absolute"}, "x")),
        )
        given = [f"{key}={in_hydra(part.model_dump(mode='json'))}" for key, part in parts]
    words = (*LIFE[:-3], "training.steps=6", "training.checkpoint_every=3", *given)
    words += (f"data={digits}", "name=x")
    succeeded(call(folder, "train", *words))
    weights = folder / "models/by-hand/x/weights.safetensors"
    whole, directory = weights.read_bytes(), run_directory(folder)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(folder / "models", elsewhere / "models")
    sample = ("model=by-hand/x", "sampler=em", "sampler.steps=2", "shard_size=2", "output=s")
    succeeded(call(elsewhere, "sample", *sample, "trust=true"))
    Checkpoints(directory / "checkpoints").path(6).unlink()
    shutil.rmtree(directory / "model")
    edit(folder / "nets/late.py", "6", "7")
    edit(folder / "nets/b.py", "abs()", "square()")
    assert "resuming from step 3" in succeeded(call(folder, "train", *words)).stdout
    assert weights.read_bytes() == whole


def test_a_launch_records_the_code_of_its_jobs(folder, digits):
    (folder / "configs/grid").mkdir(parents=True)
    content = with_models({"mine": ["network=mynets:Mixer"], "plain": ["network=demo"]})
    with fresh_modules():
        models = load(folder / "configs", content).models
        for name, words in (
            ("mine", [f"record={models['mine'].digest}"]),
            ("plain", []),
        ):
            given = [f"model=mine/{name}"]
            training = settings_of(TRAININGS["train"], given)
            assert custom_parts(training, given) == words
        given = ["model=mine/mine", "training.steps=3"]
        [word] = custom_parts(settings_of(TRAININGS["train"], given), given)
        assert word.startswith("network={")
        assert models["mine"].settings.network.code in word


def test_a_job_of_a_grid_refuses_changed_code_at_its_start(folder, digits):
    (folder / "configs/grid").mkdir(parents=True)
    with fresh_modules():
        content = with_models({"mine": ["network=mynets:Mixer"]})
        planned = load(folder / "configs", content).models["mine"].digest
    edit(folder / "mynets.py", "relu", "tanh")
    job = ("model=mine/mine", f"data={digits}")
    line = refused(call(folder, "train", *job, f"record={planned}"), 2)
    assert "mynets.py here is code" in line
    assert "plan again" in line
    with fresh_modules():
        assert load_grid("mine").models["mine"].digest != planned


def test_old_code_never_runs_under_a_new_digest(folder, digits):
    """All commands run in one process, as in a notebook."""
    words = (*LIFE, f"data={digits}")
    run_command(program("train"), [*words, "name=x"])
    edit(folder / "mynets.py", "import torch", "import torch  # a comment")
    run_command(program("train"), [*words, "name=x"])
    edit(folder / "mylayers.py", "padding=1", "padding=1, bias=False")
    with pytest.raises(UserError, match="a file that it imports, has changed; restart"):
        run_command(program("train"), [*words, "name=y"])
    assert not Path("models/by-hand/y").exists()


PROCESSES = """
import multiprocessing
import sys

from psld.config.settings import parse
from psld.parts import Network, Objective

def count(network):
    return sum(each.numel() for each in network.build(2, 2, 8, 0).parameters())

if __name__ == "__main__":
    network = parse(Network, {"kind": "mynets:Mixer", "width": 4}, "x")
    with multiprocessing.get_context(sys.argv[1]).Pool(1) as pool:
        print(pool.apply(count, [network]))
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_part_can_be_sent_to_another_process(folder, method):
    (folder / "processes.py").write_text(PROCESSES)
    assert succeeded(run(folder, [sys.executable, "processes.py", method])).stdout == "158\n"


def test_the_trials_change_neither_weights_nor_generators(folder, digits):
    succeeded(call(folder, "train", *LIFE, f"data={digits}", "name=x"))
    model = psld.load("models/by-hand/x", device="cpu")
    settings = model.settings
    process = build_process(settings)
    module = build(settings, process)
    before, weights = torch.get_rng_state(), {k: v.clone() for k, v in module.state_dict().items()}
    check_rebuilt(module, settings, process)
    value, lacking = try_loss(module, loss_of(settings, process), has_labels=False)
    assert (value > 0, lacking) == (True, False)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(each, weights[name]) for name, each in module.state_dict().items())
    assert module.training
    psld.load("models/by-hand/x", device="cpu")
    assert torch.equal(torch.get_rng_state(), before)
