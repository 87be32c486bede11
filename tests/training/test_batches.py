"""Batches: a function of only (seed, step), split among the ranks; the labels of their images."""

from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from psld.data.store import from_uint8
from psld.diffusion.loss import EpsilonLoss, NoisyImages, NoisyStates
from psld.diffusion.settings import NoiseLaw
from psld.training.batches import Batch, Batches, Labels
from psld.training.objectives import Denoiser, Loss
from psld.training.ranks import Ranks
from psld.utils.errors import UserError
from tests.diffusion.processes import phase_space, vp_sde
from tests.diffusion.processes import recipe as third_order
from tests.training.small import ONE_RANK, batches_of, random_images, recipe

PROCESSES = {
    "vp-sde": vp_sde(),
    "hsm": phase_space(0.02),
    "dsm": phase_space(0.02, matching="dsm"),
    "third-dsm": third_order(matching="dsm"),
}
CPU = torch.device("cpu")
CLASSES = 10


def numbered() -> tuple[np.ndarray, np.ndarray]:
    """Fifty images whose every pixel is the image's number, and labels that follow from it."""
    numbers = np.arange(50)
    images = np.broadcast_to(numbers[:, None, None, None], (50, 1, 8, 8)).astype(np.uint8)
    return images, numbers * 7 % CLASSES


def labelled(dropout: float = 0.3, ranks: Ranks = ONE_RANK, **changes) -> Batches:
    images, labels = numbered()
    own = Labels(labels, CLASSES, dropout)
    return Batches(images, True, NoisyStates(PROCESSES["hsm"]), recipe(**changes), ranks, own)


def batches(kind: str, ranks: Ranks = ONE_RANK, **changes) -> Batches:
    if kind == "labels":
        return labelled(ranks=ranks, **changes)
    return batches_of(PROCESSES[kind], recipe(**changes), ranks, flip=True)


def parts_of(batch: Batch) -> dict[str, Tensor]:
    parts = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return {name: part for name, part in parts.items() if part is not None}


def check_same(one: Batch, *others: Batch) -> None:
    """The first is the others, one after the other."""
    for name, value in parts_of(one).items():
        assert torch.equal(torch.cat([parts_of(other)[name] for other in others]), value), name


every_kind = pytest.mark.parametrize("kind", [*PROCESSES, "labels"])


@every_kind
def test_a_step_has_always_the_same_batch(kind):
    first, again = batches(kind), batches(kind)
    first.draw(0)
    check_same(first.draw(7), again.draw(7))


@pytest.mark.parametrize("other", ["step", "seed"])
@every_kind
def test_another_step_or_seed_has_another_batch(kind, other):
    here = batches(kind).draw(7)
    seed, step = (1, 7) if other == "seed" else (0, 8)
    there = batches(kind, seed=seed).draw(step)
    for name, value in parts_of(here).items():
        assert not torch.equal(value, parts_of(there)[name]), name


@pytest.mark.parametrize("world", [2, 3, 4])
@every_kind
def test_the_ranks_share_the_global_batch(kind, world):
    parts = [batches(kind, Ranks(rank, world, CPU)).draw(3) for rank in range(world)]
    assert {len(part.x0) for part in parts} == {12 // world}
    check_same(batches(kind).draw(3), *parts)


@every_kind
def test_micro_batches_are_the_batch_in_parts(kind):
    batch = batches(kind).draw(0)
    parts = list(batch.split(4))
    assert [len(part.x0) for part in parts] == [4, 4, 4]
    check_same(batch, *parts)


def test_threads_draw_the_same_batches_ahead_and_none_beyond_the_last_step(monkeypatch):
    monkeypatch.setattr("psld.utils.randomness.drawing_threads", lambda *_: 3)
    drawn, draw = [], Batches._draw_on_host
    monkeypatch.setattr(
        Batches, "_draw_on_host", lambda self, step: drawn.append(step) or draw(self, step)
    )
    ahead = batches("dsm", steps=8)
    found = [ahead.draw(step) for step in range(8)]
    assert sorted(drawn) == list(range(8))
    for step, batch in enumerate(found):
        check_same(batch, batches("dsm", steps=1).draw(step))


def test_a_batch_that_the_ranks_cannot_share_is_refused():
    with pytest.raises(UserError, match=r"training\.batch_size: 12 .* shared equally by 5 ranks"):
        batches_of(PROCESSES["hsm"], recipe(), Ranks(0, 5, CPU))


def test_shapes_and_ranges():
    settings = recipe(batch_size=1000, time_eps=0.25)
    batch = batches_of(PROCESSES["dsm"], settings, images=random_images(channels=3)).draw(0)
    assert batch.x0.shape == (1000, 3, 8, 8)
    assert batch.eps.shape == (1000, 6, 8, 8)
    assert batch.auxiliary_eps.shape == (1000, 3, 8, 8)
    assert batch.t.dtype == torch.float64
    assert batch.t.min() == pytest.approx(0.25, abs=0.01)
    assert batch.t.max() == pytest.approx(1, abs=0.01)
    # Both noises are standard normal, and not the same numbers.
    for noise in (batch.eps, batch.auxiliary_eps):
        assert noise.mean() == pytest.approx(0, abs=0.01)
        assert noise.std() == pytest.approx(1, abs=0.01)
    blocks = torch.stack([batch.eps[:, :3], batch.eps[:, 3:], batch.auxiliary_eps])
    correlation = torch.corrcoef(blocks.flatten(1))
    torch.testing.assert_close(correlation, torch.eye(3), atol=0.02, rtol=0)


@pytest.mark.parametrize("kind", PROCESSES)
def test_every_block_has_noise_of_its_own(kind):
    """And under DSM every auxiliary block at the start."""
    process, batch = PROCESSES[kind], batches(kind).draw(0)
    assert batch.eps.shape == (12, process.blocks, 8, 8)
    if process.needs_auxiliary_noise:
        assert batch.auxiliary_eps.shape == (12, process.blocks - 1, 8, 8)
    z, t = NoisyStates(process)(batch)
    assert z.shape == (12, process.blocks, 8, 8)
    assert torch.equal(t, batch.t.float())


def test_without_flips_every_image_is_one_of_the_dataset():
    images = random_images(5)
    known = {from_uint8(torch.from_numpy(image)).numpy().tobytes() for image in images}
    drawn = batches_of(PROCESSES["hsm"], recipe(batch_size=200), images=images).draw(0).x0
    assert {image.numpy().tobytes() for image in drawn} == known


def test_with_flips_half_of_the_images_are_mirrored():
    images = random_images(5)
    settings = recipe(batch_size=2000)
    drawn = batches_of(PROCESSES["hsm"], settings, flip=True, images=images).draw(0).x0
    plain = batches_of(PROCESSES["hsm"], settings, flip=False, images=images).draw(0).x0
    kept = (drawn == plain).flatten(1).all(dim=1)
    mirrored = (drawn == plain.flip(-1)).flatten(1).all(dim=1)
    assert torch.equal(mirrored, ~kept)
    assert kept.double().mean() == pytest.approx(0.5, abs=0.05)


def test_a_dataset_too_large_for_the_device_gives_the_same_batches(monkeypatch):
    process, settings = PROCESSES["hsm"], recipe()
    resident = batches_of(process, settings, flip=True)
    monkeypatch.setattr("psld.training.batches.RESIDENT_BYTES", 0)
    mapped = batches_of(process, settings, flip=True)
    assert resident.resident is not None
    assert mapped.resident is None
    check_same(resident.draw(4), mapped.draw(4))


# --- labels ---------------------------------------------------------------------------------------


def numbers_of(batch) -> torch.Tensor:
    """Which images a batch holds."""
    return ((batch.x0[:, 0, 0, 0] + 1) * 127.5).round().long()


def test_every_image_comes_with_its_label():
    batch = labelled(0.0, batch_size=300).draw(3)
    assert torch.equal(batch.labels, numbers_of(batch) * 7 % CLASSES)
    assert batch.labels.dtype == torch.int64


@pytest.mark.parametrize("dropout", [0.1, 0.5])
def test_a_part_of_the_labels_is_dropped_and_the_others_are_right(dropout):
    batch = labelled(dropout, batch_size=20_000).draw(0)
    dropped = batch.labels == CLASSES
    assert dropped.double().mean() == pytest.approx(dropout, abs=0.015)
    assert torch.equal(batch.labels[~dropped], (numbers_of(batch) * 7 % CLASSES)[~dropped])


def test_labels_change_nothing_else_in_a_batch():
    images, _ = numbered()
    plain = batches_of(PROCESSES["hsm"], recipe(), flip=True, images=images).draw(4)
    conditional = labelled(0.5).draw(4)
    assert plain.labels is None
    for name in ("x0", "t", "eps"):
        assert torch.equal(getattr(conditional, name), getattr(plain, name)), name


def test_the_network_is_told_the_labels_of_its_batch():
    seen = []

    def network(z, t, label):
        seen.append(label)
        return torch.zeros_like(z)

    batch = labelled().draw(0)
    EpsilonLoss(PROCESSES["hsm"])(network, batch)
    image = replace(batch, eps=batch.eps[:, :1])
    Loss(Denoiser(), SimpleNamespace(deviation=0.5), NoisyImages(NoiseLaw()))(network, image)
    for labels in seen:
        assert torch.equal(labels, batch.labels)
    assert len(seen) == 2


def test_closed_batches_let_go_of_the_images_and_end_their_threads():
    drawn = batches("hsm")
    drawn.draw(0)
    threads = drawn._drawn._pool._threads
    assert any(thread.is_alive() for thread in threads)
    drawn.close()
    assert not any(thread.is_alive() for thread in threads)
    assert drawn.resident is None
