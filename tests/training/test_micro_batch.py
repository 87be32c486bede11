"""`training.micro_batch=auto`: as many images at once as the memory takes."""

from dataclasses import replace

import pytest

import psld.training.micro_batch as fitting
import psld.training.run as training_run
from psld.training.memory import training_memory
from tests.commands import TINY, call, succeeded
from tests.training.small import ONE_RANK
from tests.training.test_memory import TRAININGS

SETTINGS = TRAININGS["epsilon"]


def with_free(monkeypatch, free: float) -> None:
    """Let every device have so many bytes free for tensors."""
    monkeypatch.setattr(fitting, "available_memory", lambda device: (free + 0.5) / fitting.USABLE)


KEPT = ", as before it was stopped; training.micro_batch=N sets another"


@pytest.mark.parametrize(
    ("room", "kept", "ranks", "images", "line"),
    [
        (64, None, 1, 64, ""),
        (63, None, 1, 32, "32 of 64 images at once; 64 need more memory"),
        (0, None, 1, 1, "1 of 64 images at once; 64 need more memory"),
        (64, 16, 1, 16, f"16 of 64 images at once{KEPT}"),
        (8, 16, 1, 8, "8 of 64 images at once; 16 need more memory"),
        (32, None, 4, 8, "8 of 16 images at once; 16 need more memory"),
        (64, 32, 4, 16, "16 of 16 images at once"),
        (64, None, 2, 4, "4 of 32 images at once; 32 need more memory"),
    ],
)
def test_the_largest_part_that_fits(monkeypatch, capsys, room, kept, ranks, images, line):
    """Ranks on CPUs share the memory of a computer; all have as many as that with the least."""
    with_free(monkeypatch, room)
    monkeypatch.setattr(fitting, "training_memory", lambda settings, images, ranks: images)
    least = 4 if ranks == 2 else 64
    monkeypatch.setattr(fitting.Ranks, "largest", lambda self, number: max(number, -least))
    place = replace(ONE_RANK, world=ranks)
    assert fitting.largest_micro_batch(SETTINGS, place, kept, dataset=0) == images
    assert capsys.readouterr().out == (line and f"training.micro_batch: {line}\n")


def test_what_is_counted(monkeypatch):
    """A step, and the training images if they are on the device."""
    with_free(monkeypatch, training_memory(SETTINGS, 64))
    for dataset, images in ((0, 64), (1 << 10, 32), (8 << 30, 64)):
        assert fitting.largest_micro_batch(SETTINGS, ONE_RANK, None, dataset) == images


def test_a_resumed_training_keeps_it(digits, tmp_path, monkeypatch):
    """On a larger device, too: with dropout, other passes would train other weights."""
    kept_before = []

    def choose(settings, ranks, kept, dataset):
        kept_before.append(kept)
        return kept or 4

    monkeypatch.setattr(training_run, "largest_micro_batch", choose)
    every = ("training.steps=4", "training.checkpoint_every=2", "network.dropout=0.1")
    settings = (*TINY, f"data={digits}", *every)

    def trained(*more: str) -> bytes:
        succeeded(call(tmp_path, "train", *settings, "output=model", *more))
        return (tmp_path / "model/weights.safetensors").read_bytes()

    before = trained("training.micro_batch=auto")
    for path in tmp_path.glob("runs/*/checkpoints/*4.safetensors"):
        path.unlink()
    assert trained("training.micro_batch=auto") == before
    assert kept_before == [None, 4]
    assert trained("training.micro_batch=4", "runs=numbered") == before
    monkeypatch.undo()
    whole = trained("training.micro_batch=null", "runs=whole")
    assert trained("training.micro_batch=auto", "runs=another") == whole != before
