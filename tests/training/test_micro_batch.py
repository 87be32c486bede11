"""`training.micro_batch=auto`: half as many images at once, until memory is enough."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from psld.diffusion import loss
from psld.training.loop import largest_micro_batch
from psld.utils.errors import RunError
from tests.commands import TINY, call, refused, succeeded
from tests.training.small import ONE_RANK

EVERY = (*TINY, "training.steps=4", "training.checkpoint_every=2", "network.dropout=0.1")


def with_room_for(monkeypatch, room: int) -> list[int]:
    """Let the losses of more images at once run out of memory; return those that were tried."""
    tried, mean = [], loss.EpsilonLoss.__call__

    def limited(self, network, batch):
        tried.append(len(batch.x0))
        if len(batch.x0) > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return mean(self, network, batch)

    monkeypatch.setattr(loss.EpsilonLoss, "__call__", limited)
    return tried


@pytest.fixture
def trained(digits, tmp_path):
    """Returns a function that trains with more settings and returns the weights."""

    def train(*more: str) -> bytes:
        succeeded(call(tmp_path, "train", *EVERY, f"data={digits}", "output=model", *more))
        return (tmp_path / "model/weights.safetensors").read_bytes()

    return train


def test_memory_that_runs_out_halves_what_is_computed_at_once(trained, tmp_path, monkeypatch):
    """All steps are as with that number, and a training that goes on keeps it."""
    given, whole = trained("training.micro_batch=4", "runs=a"), trained("runs=b")
    assert trained("training.micro_batch=auto", "runs=c") == whole != given
    tried = with_room_for(monkeypatch, 7)
    assert trained("training.micro_batch=auto", "runs=d") == given
    assert tried[:4] == [16, 8, 4, 4]
    assert json.loads((tmp_path / "model/manifest.json").read_text())["micro_batch"] == 4
    monkeypatch.undo()
    for path in tmp_path.glob("d/*/checkpoints/*4.safetensors"):
        path.unlink()
    for path in tmp_path.glob("d/*/model/*"):
        path.unlink()
    assert trained("training.micro_batch=auto", "runs=d") == given, "also with more memory"


def test_it_is_said_and_one_image_that_does_not_fit_is_refused(digits, tmp_path, monkeypatch):
    words = ("train", *EVERY, f"data={digits}", "output=model", "training.micro_batch=auto")
    with_room_for(monkeypatch, 2)
    said = succeeded(call(tmp_path, *words)).stdout
    for images, smaller in ((16, 8), (8, 4), (4, 2)):
        assert f"out of memory with {images} images at once; trying {smaller}\n" in said
    monkeypatch.undo()
    with_room_for(monkeypatch, 0)
    refused(call(tmp_path, *words, "training.seed=1"), 1, "out of memory with one image at once")
    assert not Path(tmp_path / "runs").joinpath("model").exists()


def test_all_ranks_take_what_fits_into_the_memory_of_each(monkeypatch):
    """A rank that has enough tries again with the others."""
    others = iter([1, 0])
    monkeypatch.setattr(
        type(ONE_RANK), "largest", lambda self, number: max(int(number), next(others))
    )
    network = torch.nn.Linear(2, 2)
    images = torch.zeros(12, 2)
    batch = loss.Batch(images, images[:, 0].double(), images, None)
    found = largest_micro_batch(
        network, lambda net, part: net(part.x0).mean(), batch, replace(ONE_RANK, world=2)
    )
    assert found == 6
    assert network.weight.grad is None
    others = iter([0] * 9)

    def full(net, part):
        raise torch.OutOfMemoryError

    with pytest.raises(RunError, match="one image"):
        largest_micro_batch(network, full, batch, ONE_RANK)
    with pytest.raises(ZeroDivisionError):
        largest_micro_batch(network, lambda *_: 1 / 0, batch, ONE_RANK)
