"""`training.micro_batch=auto` halves the micro-batch until it fits into memory."""

import json

import pytest
import torch

from psld.diffusion import loss
from psld.training.loop import largest_micro_batch
from psld.training.ranks import Ranks
from tests.commands import TINY, call, refused, succeeded
from tests.training.small import ONE_RANK

EVERY = (*TINY, "training.steps=2", "training.checkpoint_every=1", "network.dropout=0.1")
AUTO = "training.micro_batch=auto"


def with_room_for(monkeypatch, room: int) -> list[int]:
    """Make the loss of more than `room` images raise an out-of-memory error. Return the list of
    tried numbers of images."""
    tried, mean = [], loss.EpsilonLoss.__call__

    def limited(self, network, batch):
        tried.append(len(batch.x0))
        if len(batch.x0) > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return mean(self, network, batch)

    monkeypatch.setattr(loss.EpsilonLoss, "__call__", limited)
    return tried


def test_an_out_of_memory_error_halves_the_micro_batch(digits, tmp_path, monkeypatch):
    """All steps equal the steps with a fixed micro-batch. A resumed training keeps the size."""
    words = ("train", *EVERY, f"data={digits}", "output=model")

    def trained(*more: str) -> tuple[bytes, str]:
        said = succeeded(call(tmp_path, *words, *more)).stdout
        return (tmp_path / "model/weights.safetensors").read_bytes(), said

    given, _ = trained("training.micro_batch=4", "runs=a")
    tried = with_room_for(monkeypatch, 7)
    weights, said = trained(AUTO, "runs=b")
    assert weights == given
    assert tried[:4] == [16, 8, 4, 4]
    for images, smaller in ((16, 8), (8, 4)):
        assert f"out of memory with {images} images at once; trying {smaller}\n" in said
    assert json.loads((tmp_path / "model/manifest.json").read_text())["micro_batch"] == 4
    monkeypatch.undo()
    for pattern in ("checkpoints/*2.pt", "model/*"):
        for path in tmp_path.glob(f"b/*/{pattern}"):
            path.unlink()
    assert trained(AUTO, "runs=b")[0] == given, "also with more memory"
    whole, _ = trained(AUTO, "runs=c")
    assert whole == trained("runs=d")[0] != given
    with_room_for(monkeypatch, 0)
    refused(call(tmp_path, *words, AUTO, "runs=e"), 1, "out of memory with one image at once")


def test_all_ranks_use_the_micro_batch_that_fits_on_every_rank():
    """A rank with enough memory tries again together with the other ranks."""
    others = iter([1, 0])

    class TwoRanks(Ranks):
        def largest(self, number):
            return max(int(number), next(others))

    network = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 2))
    images = torch.zeros(12, 2)
    batch = loss.Batch(images, images[:, 0].double(), images, None)
    tried = []

    def mean(net, part):
        tried.append((len(part.x0), net[1].weight.grad is not None))
        return net(part.x0).mean()

    found = largest_micro_batch(network, mean, batch, TwoRanks(0, 2, ONE_RANK.device))
    assert found == 6
    assert tried == [(12, False), (6, False), (6, True)], "also next to the first gradient"
    assert network[1].weight.grad is None
    assert network[0].num_batches_tracked == 0, "nothing is trained yet"
    with pytest.raises(ZeroDivisionError):
        largest_micro_batch(network, lambda *_: 1 / 0, batch, ONE_RANK)
