"""`psld check`: its calls, its output, and the errors that it finds before a training."""

import pytest

from tests.commands import call, command, refused, run, succeeded
from tests.parts.own import OBJECTIVES, edit, with_network, write

STATES = """
import torch
from torch import nn

from mynets import Mixer, Net
from psld.parts import Average, Network, Objective, Optimizer, Schedule


class Buffer(Network):
    def build(self, i, o, size, classes):
        net = Net(i, o, 4)
        net.register_buffer("offset", torch.randn(()), persistent=False)
        return Shifted(net, net.offset)


class Attribute(Network):
    def build(self, i, o, size, classes):
        return Shifted(Net(i, o, 4), torch.randn(()))


class Shifted(nn.Module):
    def __init__(self, net, offset):
        super().__init__()
        self.net, self.offset = net, offset

    def forward(self, z, t):
        return self.net(z, t) + self.offset


class Counter(Network):
    def build(self, i, o, size, classes):
        return Counts(Net(i, o, 4), 0)


class Counts(Shifted):
    def forward(self, z, t):
        self.offset += 1
        return super().forward(z, t)


class Dropout(Network):
    def build(self, i, o, size, classes):
        return Drops(Net(i, o, 4), 0)


class Drops(Shifted):
    def forward(self, z, t):
        return nn.functional.dropout(self.net(z, t), 0.5, training=True)


class NaN(Objective):
    def loss(self, module, batch):
        z, t = batch.noisy()
        return (module(z, t) - batch.target).square().mean() + (-t).log().mean()


class Broken(Schedule):
    def factor(self, step, steps):
        return float("nan")


class Unloaded(Optimizer):
    def build(self, parameters):
        return Forgets(parameters)


class Forgets(torch.optim.SGD):
    def load_state_dict(self, state):
        raise KeyError("mine")
"""


@pytest.fixture
def folder(outside):
    return with_network(write(outside, states=STATES, losses=OBJECTIVES))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("mynets:Mixer",), "takes 2×8×8 and has 314 parameters"),
        (("mynets:Mixer", "width=4"), "has 158 parameters"),
        (("heun:Heun", "striding=edm", "steps=7"), "with PSLD and 7 network evaluations"),
        (("pull:Pull",), "samples from a Gaussian with PSLD and 5 network evaluations"),
        (("pull:Border",), "known pixels in 4 images of 8×8: 75%"),
        (("mine:Halves", "every=400"), "a checkpoint can hold the state"),
        (("mine:Polyak",), "a checkpoint can hold the state"),
        (("mine:Lines",), "a checkpoint can hold the state"),
        (("losses:Absolute", "network=mynets:Mixer"), "the loss of two random images is 0."),
        (("flows:RectifiedFlow", "network=mynets:Mixer"), "the loss of two random images is "),
        (("losses:AbsoluteImage",), "a checkpoint can hold the state"),
    ],
)
def test_check_builds_and_calls_a_part_once(words, says, folder):
    assert says in succeeded(call(folder, "check", *words)).stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("mynets:Net",), "mynets:Net: no part: it does not subclass a class of psld.parts"),
        (("absent:Net",), "no module absent"),
        (("torch:Tensor",), "torch is the name of a package that psld needs"),
        (("heun:Heun",), "steps is missing"),
        (("mynets:Mixer", "widht=3"), "unknown key widht (is width meant?)"),
        (("states:Broken",), "training.schedule: states:Broken: the factor of step 0 is nan"),
        (("states:NaN",), "the loss of two random images is nan"),
    ],
)
def test_check_reports_an_error_in_one_line(words, says, folder):
    refused(call(folder, "check", *words), 2, says)


LOST = {
    "Buffer": "the output changes when the module is rebuilt and its weights are loaded",
    "Attribute": "the output changes when the module is rebuilt and its weights are loaded",
    "Counter": "the output changes from call to call in eval mode",
    "Dropout": "the output changes from call to call in eval mode",
}


@pytest.mark.parametrize("kind", LOST)
def test_check_finds_a_state_that_a_checkpoint_would_lose(kind, folder, digits):
    refused(call(folder, "check", f"states:{kind}"), 2, LOST[kind], "a persistent buffer")
    words = (f"network=states:{kind}", f"data={digits}", "training.steps=5000")
    refused(call(folder, "train", *words), 2, f"network=states:{kind}: ", LOST[kind])
    assert not list(folder.rglob("checkpoint-*"))


def test_check_finds_a_state_that_cannot_be_loaded(folder):
    finished = call(folder, "check", "states:Unloaded")
    assert finished.returncode == 1
    assert 'raise KeyError("mine")' in finished.stderr
    assert finished.stderr.endswith("training.optimizer: states:Unloaded: load_state_dict\n")


def test_a_loss_that_is_not_finite_is_reported_at_the_first_step(folder, digits):
    """The message does not mention the learning rate, which had no effect before the first step."""
    words = ("training.objective=states:NaN", f"data={digits}", "training.log_every=200")
    line = refused(call(folder, "train", *words, "training.steps=400"), 1)
    assert "the loss is NaN or infinite at the first step" in line
    assert "learning_rate" not in line


def test_check_needs_no_installed_project(folder):
    edit(folder / "mynets.py", "relu(h)", "relu(h[:, :3])")
    finished = run(folder, command("check", "mynets:Mixer"))
    assert finished.returncode == 1
    assert 'mynets.py", line' in finished.stderr
    assert "psld/" not in finished.stderr, "the frames above the user's are left out"
