"""Optimizers, averages and schedules: their effects, and bit-identical resumption."""

import contextlib
import copy
import math
import shutil
from pathlib import Path
from pickle import UnpicklingError

import pytest
import torch

from psld.config.kinds import SHIPPED
from psld.diffusion.loss import EpsilonLoss
from psld.parts import Average, Optimizer, Schedule
from psld.training.loop import learning_rate, optimize
from psld.training.state import (
    Checkpoints,
    TrainingState,
    build_average,
)
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
from tests.parts.contract import here_and_outside
from tests.training.small import batches_of, check_equal, recipe, tiny_network
from tests.training.test_resume import kill, wait_for_checkpoints

PROCESS = phase_space(0.02)
OWN = {"optimizer": ("mine:Odd", "mine:Plain"), "average": ("mine:Polyak",)}


def trained(settings, steps: int, state: TrainingState | None = None) -> TrainingState:
    state = state or TrainingState(tiny_network(PROCESS), settings)
    batches, loss_of = batches_of(PROCESS, settings), EpsilonLoss(PROCESS)
    for step in range(state.step, steps):
        optimize(state, state.network, loss_of, batches.draw(step), settings)
    return state


def resumed(settings, folder: Path, before: TrainingState) -> TrainingState:
    checkpoints, after = Checkpoints(folder), trained(settings, 0)
    checkpoints.write(Checkpoints.copy(before))
    checkpoints.restore(after, before.step)
    return after


@pytest.mark.parametrize(
    ("noun", "kind"), [(noun, kind) for noun in OWN for kind in (*SHIPPED[noun], *OWN[noun])]
)
def test_an_optimizer_or_average_resumes_bit_identically(outside, noun, kind):
    here_and_outside(outside, {"optimizer": Optimizer, "average": Average}[noun], kind)
    settings = recipe(**{noun: kind})
    before, whole = trained(settings, 2), trained(settings, 4)
    after = resumed(settings, outside, before)
    check_equal(after.state_dict(), before.state_dict())
    check_equal(trained(settings, 4, after).state_dict(), whole.state_dict())
    start = trained(settings, 0).network.state_dict()
    moved = [not torch.equal(whole.network.state_dict()[name], start[name]) for name in start]
    assert sum(moved) > len(moved) / 2


def test_an_average_that_cannot_be_exported_is_refused_at_the_first_step(outside):
    with (outside / "mine.py").open("a") as file:
        file.write(HALF)
    with pytest.raises(TypeError, match="BFloat16"):
        trained(recipe(average="mine:Half"), 1).check()


HALF = """

class Half(Polyak):
    def build(self, network):
        mean = Mean(network)
        mean.network.bfloat16()
        mean.update = lambda network: None
        return mean
"""


def test_an_optimizer_may_leave_out_weights():
    """Parameters that are left out accumulate no gradients and are not part of the clipped norm."""
    settings, loss_of = recipe(), EpsilonLoss(PROCESS)
    state, batch = trained(settings, 0), batches_of(PROCESS, settings).draw(0)
    loss_of(alone := copy.deepcopy(state.network), batch).backward()
    *others, last = state.network.parameters()
    state.optimizer = torch.optim.SGD([last])
    before = [each.clone() for each in others]
    _, norm = optimize(state, state.network, loss_of, batch, settings)
    assert norm == pytest.approx(float(list(alone.parameters())[-1].grad.norm()))
    assert all(map(torch.equal, others, before))
    assert not any(each.grad is not None for each in others)


@pytest.mark.parametrize("kind", [*SHIPPED["average"], "mine:Polyak"])
def test_an_average_contains_weights_and_buffers(outside, kind):
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    average = build_average(Average.model_validate(kind), network)
    for _ in range(3):
        network(5 + torch.randn(8, 3))
        with torch.no_grad():
            average.update(network)
    assert torch.equal(average.network[1].running_mean, network[1].running_mean)
    assert average.network[1].num_batches_tracked == 3
    assert not average.network.training
    assert network.training
    assert network[0].weight.requires_grad


@pytest.mark.parametrize("kind", [*SHIPPED["schedule"], "mine:Halves"])
def test_a_schedule_scales_the_rate_after_the_warm_up(outside, kind):
    part, *_ = here_and_outside(outside, Schedule, kind)
    settings = recipe(schedule=kind, learning_rate=0.5, warmup_steps=4, steps=100)
    factors = [part.factor(step, 100) for step in range(100)]
    assert all(0 <= factor <= 1 for factor in factors)
    expected = [0.5 * min(step / 4, 1) * factor for step, factor in enumerate(factors)]
    assert [learning_rate(settings, step) for step in range(100)] == pytest.approx(expected)


def test_the_shipped_schedules_have_their_formulas():
    given = ["constant", {"kind": "cosine", "least": 0.2}]
    given.append({"kind": "inverse-sqrt", "reference_steps": 25})
    values = [
        [Schedule.model_validate(each).factor(step, 100) for step in (0, 25, 50, 100)]
        for each in given
    ]
    assert values[0] == [1, 1, 1, 1]
    assert values[1] == pytest.approx([1, 0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2, 0.6, 0.2])
    assert values[2] == pytest.approx([1, 1, math.sqrt(0.5), 0.5])


def test_the_default_recipe_is_not_in_the_identity():
    assert recipe(optimizer="adam", schedule="constant").identity() == recipe().identity()
    assert not {"optimizer", "schedule", "average"} & recipe().identity().keys()
    changed = recipe(optimizer={"kind": "adam", "betas": [0.9, 0.99]}, schedule="cosine").identity()
    assert changed["optimizer"] == {"kind": "adam", "betas": [0.9, 0.99], "eps": 1e-8}
    assert changed["schedule"] == {"kind": "cosine", "least": 0.0}
    assert recipe(optimizer="adamw").identity()["optimizer"]["weight_decay"] == 0.01
    with pytest.raises(ValueError, match="is adam meant"):
        recipe(optimizer="adamv")


def test_ema_decay_is_short_for_the_average_ema(outside):
    short = recipe(ema_decay=0.5)
    for average in ({"kind": "ema", "decay": 0.5}, {"decay": 0.5}, short.averaging):
        assert recipe(average=average) == short
    assert recipe(average="ema") == recipe()
    assert short.identity()["ema_decay"] == 0.5
    assert "average" not in short.identity()
    own = recipe(average="mine:Polyak", ema_decay=0.5)
    assert own.ema_decay is None
    assert "ema_decay" not in own.identity()
    assert own.identity()["average"]["kind"] == "mine:Polyak"
    assert type(own).model_validate(own.model_dump()) == own
    with pytest.raises(ValueError, match="ema_decay: null without an average"):
        recipe(ema_decay=None)
    with pytest.raises(ValueError, match=r"average\.dekay"):
        recipe(average={"kind": "ema", "dekay": 0.5})


WRONG = """
from copy import deepcopy

import torch
from torch import nn

from psld.parts import Average, Optimizer, Schedule

class Seen:
    pass

class Unsaved(torch.optim.SGD):
    def step(self, closure=None):
        self.state[self.param_groups[0]["params"][0]]["seen"] = Seen()

class Unloaded(torch.optim.SGD):
    def load_state_dict(self, state):
        self.slow[state["state"]]

class Of:
    def __init__(self, network):
        self.network = network
    def update(self, network):
        raise KeyError("in the average")

class Mine({noun}):
    def {method}:
        return {made}
"""
METHODS = {
    "Optimizer": "build(self, parameters)",
    "Average": "build(self, network)",
    "Schedule": "factor(self, step, steps)",
}


@pytest.mark.parametrize(
    ("noun", "made", "words"),
    [
        ("Schedule", "-1 if step == steps - 1 else 1", "the factor of step 6999 is -1; it must"),
        ("Schedule", "float('nan') if step == 3500 else 1", "the factor of step 3500 is nan"),
    ],
)
def test_a_wrong_part_is_refused_before_a_checkpoint(digits, outside, noun, made, words):
    text = WRONG.format(noun=noun, method=METHODS[noun], made=made)
    (outside / "wrong.py").write_text(text)
    key = f"training.{noun.lower()}"
    given = (*TINY, f"data={digits}", "training.steps=7000", f"{key}=wrong:Mine")
    refused(call(outside, "train", *given), 2, f"{key}: wrong:Mine: ", words)
    assert not list(outside.rglob("checkpoint-*"))
    assert noun != "Schedule" or not (outside / "runs").exists(), "refused before it begins"


@pytest.mark.parametrize("made", ["Unsaved(parameters)", "Unloaded(parameters)"])
def test_a_state_that_cannot_be_restored_is_refused_at_the_first_step(digits, outside, made):
    text = WRONG.format(noun="Optimizer", method=METHODS["Optimizer"], made=made)
    (outside / "wrong.py").write_text(text)
    words = (*TINY, f"data={digits}", "training.steps=7000", "training.optimizer=wrong:Mine")
    with contextlib.suppress(TypeError, UnpicklingError):
        assert call(outside, "train", *words).returncode == 1
    assert not list(outside.rglob("checkpoint-*"))


# -- a complete training with only custom parts ----------------------------------------------------

RECIPE = (
    "network=mine:Counting",
    *(word for word in TINY if not word.startswith(("network.", "training.ema_decay"))),
    "training.optimizer=mine:Odd",
    "training.optimizer.decay=0.8",
    "training.schedule=mine:Halves",
    "training.average=mine:Polyak",
    "output=model",
    "training.steps=6",
    "training.checkpoint_every=3",
)


def resumes_to_the_bit(folder: Path, train) -> None:
    """Train, remove the last checkpoint and the export, and resume from the previous checkpoint."""
    train()
    weights = (folder / "model/weights.safetensors").read_bytes()
    checkpoints = Checkpoints(run_directory(folder) / "checkpoints")
    before = torch.load(checkpoints.path(6))
    checkpoints.path(6).unlink()
    shutil.rmtree(run_directory(folder) / "model")
    train()
    assert (folder / "model/weights.safetensors").read_bytes() == weights
    check_equal(torch.load(checkpoints.path(6)), before)


def test_a_training_with_custom_parts_resumes_bit_identically(digits, outside):
    words = (*RECIPE, f"data={digits}", "training.micro_batch=auto")
    resumes_to_the_bit(outside, lambda: succeeded(call(outside, "train", *words)))


@pytest.mark.slow
def test_two_ranks_with_custom_parts_resume_bit_identically(digits, outside):
    """Before each step, both ranks have the buffers of rank 0."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    python, *train = command("train", *RECIPE, f"data={digits}", "training.micro_batch=4")
    resumes_to_the_bit(outside, lambda: succeeded(run(outside, [python, *launcher, *train])))


@pytest.mark.slow
def test_a_killed_training_with_custom_parts_resumes_bit_identically(
    digits, outside, tmp_path_factory
):
    words = (*RECIPE, f"data={digits}", "training.steps=120", "training.checkpoint_every=10")
    with started(outside, command("train", *words)) as process:
        wait_for_checkpoints(process, outside, count=2)
        kill(process)
    assert "resuming from step" in succeeded(call(outside, "train", *words)).stdout
    succeeded(call(outside, "train", *words, "runs=whole", "output=other"))
    weights = [(outside / name / "weights.safetensors").read_bytes() for name in ("model", "other")]
    assert weights[0] == weights[1]


def test_an_override_of_an_option_does_not_change_the_kind(digits, outside):
    """The override replaces the text in the config, so the kind is missing; no default is used."""
    (outside / "configs/training").mkdir(parents=True)
    shipped = "defaults: [demo, _self_]\n"
    (outside / "configs/training/mine.yaml").write_text(f"{shipped}optimizer: adamw\n")
    words = (*TINY, f"data={digits}", "training.steps=1", "training.optimizer.betas=[0.5,0.9]")
    line = refused(call(outside, "train", *words, "training=mine"), 2)
    assert "training.optimizer: kind is missing; there are: adam, adamw" in line
    succeeded(call(outside, "train", *words, "name=x", "training.optimizer=adamw"))
    manifest = (outside / "models/by-hand/x/manifest.json").read_text()
    assert '"kind": "adamw"' in manifest
