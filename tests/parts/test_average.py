"""Averages: of weights and buffers, and the same after a resumption."""

import pytest
import torch

from psld.parts import Average
from psld.training.state import build_average
from tests.commands import TINY, call, refused
from tests.parts.conftest import kinds
from tests.parts.contract import check_settings
from tests.parts.test_optimizer import resumed, trained
from tests.training.small import check_equal, recipe


@pytest.mark.parametrize("kind", kinds("average", "Polyak"))
def test_an_average_has_weights_and_buffers_and_resumes_to_the_bit(outside, kind):
    part = check_settings(Average, kind)
    settings = recipe(average=kind)
    before, whole = trained(settings, 3), trained(settings, 5)
    after = resumed(settings, outside, before)
    check_equal(after.state_dict(), before.state_dict())
    check_equal(trained(settings, 5, after).state_dict(), whole.state_dict())

    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    average = build_average(part, network)
    for _ in range(3):
        network(5 + torch.randn(8, 3))
        with torch.no_grad():
            average.update(network)
    assert torch.equal(average.network[1].running_mean, network[1].running_mean)
    assert average.network[1].num_batches_tracked == 3
    assert not average.network.training
    assert network.training
    assert network[0].weight.requires_grad


def test_a_decay_is_short_for_the_average_ema(outside):
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
    with pytest.raises(ValueError, match="ema_decay is null; give it, or average"):
        recipe(ema_decay=None)
    with pytest.raises(ValueError, match=r"average\.dekay"):
        recipe(average={"kind": "ema", "dekay": 0.5})


WRONG = """
from copy import deepcopy
from torch import nn
from psld.parts import Average

class Of:
    def __init__(self, network):
        self.network = network
    def update(self, network):
        raise KeyError("in the average")

class Mine(Average):
    def build(self, network):
        return {made}
"""


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ("deepcopy(network)", "build returns a NCSNpp without network and update"),
        ("Of(network)", "build returns the weights that are trained, not a copy"),
        ("Of(nn.Sequential(deepcopy(network)))", "a network with other weights or buffers than"),
        ("1 / 0", "build: ZeroDivisionError"),
        ("Of(deepcopy(network))", "update: KeyError: 'in the average'"),
    ],
)
def test_a_wrong_average_is_one_line_and_no_checkpoint(digits, outside, made, words):
    (outside / "wrong.py").write_text(WRONG.format(made=made))
    given = (*TINY, f"data={digits}", "training.steps=4", "training.average=wrong:Mine")
    refused(call(outside, "train", *given), 2, "training.average: wrong:Mine: ", words)
    assert not list(outside.rglob("checkpoint-*"))
