"""Optimizers: each trains, and resumes from a checkpoint to the bit."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from psld.diffusion.loss import EpsilonLoss
from psld.parts import Optimizer
from psld.training.loop import optimize
from psld.training.state import Checkpoints, TrainingState, build_optimizer, pack, unpack
from psld.utils.errors import UserError
from tests.commands import (
    TINY,
    call,
    command,
    refused,
    run,
    run_directory,
    started,
    succeeded,
)
from tests.diffusion.processes import phase_space
from tests.parts.conftest import kinds
from tests.parts.contract import check_settings
from tests.training.small import batches_of, check_equal, recipe, tiny_network
from tests.training.test_resume import kill, wait_for_checkpoints

PROCESS = phase_space(0.02)


def trained(settings, steps: int, state: TrainingState | None = None) -> TrainingState:
    state = state or TrainingState(tiny_network(PROCESS), settings)
    batches, loss_of = batches_of(PROCESS, settings), EpsilonLoss(PROCESS)
    for step in range(state.step, steps):
        optimize(state, state.network, loss_of, batches.draw(step), settings)
    return state


def resumed(settings, folder: Path, before: TrainingState) -> TrainingState:
    checkpoints, after = Checkpoints(folder), trained(settings, 0)
    checkpoints.save(before)
    checkpoints.restore(after, before.step)
    return after


@pytest.mark.parametrize("kind", kinds("optimizer", "Odd", "Plain"))
def test_an_optimizer_resumes_to_the_bit(outside, kind):
    settings = recipe(optimizer=check_settings(Optimizer, kind))
    before, whole = trained(settings, 3), trained(settings, 5)
    after = resumed(settings, outside, before)
    check_equal(after.state_dict(), before.state_dict())
    check_equal(trained(settings, 5, after).state_dict(), whole.state_dict())
    start = trained(settings, 0).network.state_dict()
    moved = [not torch.equal(whole.network.state_dict()[name], start[name]) for name in start]
    assert sum(moved) > len(moved) / 2


def test_what_is_in_a_state_comes_back_with_its_types():
    state = {
        0: {"n": 2**70, "x": 0.1, "bad": float("nan"), "yes": True, "none": None, "text": "a"},
        "nested": {"list": [1, (2.5, [])], "empty": {}, 3: "of a number", "3": "of a text"},
        "tensors": [torch.tensor(2**60), torch.tensor([True]), torch.tensor(1.5).bfloat16()],
        "eight": torch.tensor([0.5, 2]).to(torch.float8_e4m3fn),
    }
    tensors: dict = {}
    back = unpack(pack(state, "optimizer", tensors), tensors)
    assert repr(back) == repr(state)
    assert all(each.dtype != torch.bfloat16 for each in tensors.values())
    with pytest.raises(TypeError, match=r"optimizer\.state\.0 is a set"):
        pack({"state": [{1}]}, "optimizer", {})


def test_a_checkpoint_of_adam_without_a_structure_is_read(tmp_path):
    """As they were written before optimizers were parts."""
    settings = recipe()
    before, after = trained(settings, 3), trained(settings, 0)
    tensors = {n: t for n, t in before.state_dict().items() if n.startswith(("network", "ema"))}
    for index, moments in before.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
    after.load_state_dict(tensors)
    check_equal(after.state_dict(), before.state_dict())


def test_only_another_optimizer_than_the_papers_is_in_the_identity(outside):
    assert "optimizer" not in recipe().identity()
    assert recipe(optimizer="adam").identity() == recipe().identity()
    changed = recipe(optimizer={"kind": "adam", "betas": [0.9, 0.99]}).identity()["optimizer"]
    assert changed == {"kind": "adam", "betas": [0.9, 0.99], "eps": 1e-8}
    assert recipe(optimizer="adamw").identity()["optimizer"]["weight_decay"] == 0.01
    with pytest.raises(ValueError, match="is adam meant"):
        recipe(optimizer="adamv")


WRONG = """
import torch
from psld.parts import Optimizer

class Stepless(torch.optim.SGD):
    def step(self, closure=None):
        return closure()

class Unsaved(torch.optim.SGD):
    def step(self, closure=None):
        self.state[self.param_groups[0]["params"][0]]["seen"] = {{1, 2}}

class Groupless(torch.optim.Optimizer):
    def __init__(self):
        pass

class Mine(Optimizer):
    def build(self, parameters):
        return {made}
"""


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ("None", "build returns a NoneType, not a torch.optim.Optimizer"),
        ("Groupless()", "build returns a Groupless without param_groups"),
        ("parameters.nothing", "build: AttributeError: 'list' object has no attribute"),
        ("Stepless(parameters)", "step: TypeError: 'NoneType' object is not callable"),
        ("Unsaved(parameters)", "its state: TypeError: optimizer.state.0.seen is a set"),
    ],
)
def test_a_wrong_optimizer_is_one_line_and_no_checkpoint(digits, outside, made, words):
    (outside / "wrong.py").write_text(WRONG.format(made=made))
    given = (*TINY, f"data={digits}", "training.steps=4", "training.optimizer=wrong:Mine")
    refused(call(outside, "train", *given), 2, "training.optimizer: wrong:Mine: ", words)
    assert not list(outside.rglob("checkpoint-*"))


def test_out_of_memory_in_an_optimizer_of_ones_own_stays_that(outside):
    optimizer = Optimizer.model_validate("mine:Odd")

    def full(parameters):
        raise torch.OutOfMemoryError

    object.__setattr__(optimizer, "build", full)
    with pytest.raises(torch.OutOfMemoryError):
        build_optimizer(optimizer, torch.nn.Linear(1, 1))
    object.__setattr__(optimizer, "build", lambda _: 1 / 0)
    with pytest.raises(UserError, match="mine:Odd: build: ZeroDivisionError"):
        build_optimizer(optimizer, torch.nn.Linear(1, 1))


# -- a whole training with parts of one's own alone ------------------------------------------------

OWN = (
    "network=mine:Counting",
    *(word for word in TINY if not word.startswith(("network.", "training.ema_decay"))),
    "training.optimizer=mine:Odd",
    "training.optimizer.decay=0.8",
    "training.schedule=mine:Halves",
    "training.average=mine:Polyak",
    "output=model",
    "training.steps=30",
    "training.checkpoint_every=10",
    "training.log_every=10",
)


def resumes_to_the_bit(folder: Path, train) -> None:
    """Train, take the last checkpoint and the export away, and go on from the one before."""
    train()
    weights = (folder / "model/weights.safetensors").read_bytes()
    checkpoints = Checkpoints(run_directory(folder) / "checkpoints")
    before = load_file(checkpoints.path(30))
    checkpoints.path(30).unlink()
    shutil.rmtree(run_directory(folder) / "model")
    train()
    assert (folder / "model/weights.safetensors").read_bytes() == weights
    check_equal(load_file(checkpoints.path(30)), before)


@pytest.mark.parametrize("more", [(), ("training.micro_batch=auto",)])
def test_a_training_of_own_parts_resumes_to_the_bit(digits, outside, more):
    words = (*OWN, f"data={digits}", *more)
    resumes_to_the_bit(outside, lambda: succeeded(call(outside, "train", *words)))


@pytest.mark.slow
def test_two_ranks_of_own_parts_resume_to_the_bit(digits, outside):
    """The leading rank's buffers are those of both, before each step."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    python, *train = command("train", *OWN, f"data={digits}", "training.micro_batch=4")
    resumes_to_the_bit(outside, lambda: succeeded(run(outside, [python, *launcher, *train])))


@pytest.mark.slow
def test_a_killed_training_of_own_parts_resumes_to_the_bit(digits, outside, tmp_path_factory):
    words = (*OWN, f"data={digits}", "training.steps=120")
    with started(outside, command("train", *words)) as process:
        wait_for_checkpoints(process, outside, count=2)
        kill(process)
    assert "going on from step" in succeeded(call(outside, "train", *words)).stdout
    succeeded(call(outside, "train", *words, "runs=whole", "output=other"))
    weights = [(outside / name / "weights.safetensors").read_bytes() for name in ("model", "other")]
    assert weights[0] == weights[1]


def test_a_word_below_a_text_of_a_config_does_not_change_the_kind(digits, outside):
    """A config's text is replaced by the word's setting; no other optimizer takes its place."""
    (outside / "configs/training").mkdir(parents=True)
    shipped = "defaults: [demo, _self_]\n"
    (outside / "configs/training/mine.yaml").write_text(f"{shipped}optimizer: adamw\n")
    words = ("training=mine", "training.optimizer.betas=[0.5,0.9]", "training.steps=2")
    line = refused(call(outside, "train", f"data={digits}", *words), 2)
    assert "training.optimizer: kind is missing; there are: adam, adamw" in line
    given = ("training.optimizer.betas=[0.5,0.9]", "training.optimizer=adamw", *words[2:])
    succeeded(call(outside, "train", f"data={digits}", "name=x", *given))
    manifest = (outside / "models/by-hand/x/manifest.json").read_text()
    assert '"kind": "adamw"' in manifest
