"""Batches: a function of only (seed, step), split among the ranks."""

import pytest
import torch

from psld.data.store import from_uint8
from psld.training.batches import Batches
from psld.training.ranks import Ranks
from psld.utils.errors import UserError
from tests.diffusion.processes import phase_space, vp_sde
from tests.training.small import batches_of, random_images, recipe

PROCESSES = {
    "vp-sde": vp_sde(),
    "hsm": phase_space(0.02),
    "dsm": phase_space(0.02, matching="dsm"),
}


def parts_of(batch):
    parts = {"x0": batch.x0, "t": batch.t, "eps": batch.eps}
    return parts if batch.auxiliary_eps is None else {**parts, "aux": batch.auxiliary_eps}


def check_same(one, other):
    one, other = parts_of(one), parts_of(other)
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_a_step_has_always_the_same_batch(process):
    settings = recipe()
    first, again = (batches_of(process, settings, flip=True) for _ in range(2))
    first.draw(0)
    check_same(first.draw(7), again.draw(7))


@pytest.mark.parametrize("other", ["step", "seed"])
def test_another_step_or_seed_has_another_batch(other):
    process = PROCESSES["dsm"]
    here = batches_of(process, recipe()).draw(7)
    seed, step = (1, 7) if other == "seed" else (0, 8)
    there = batches_of(process, recipe(seed=seed)).draw(step)
    for name, value in parts_of(here).items():
        assert not torch.equal(value, parts_of(there)[name]), name


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_the_ranks_share_the_global_batch(process, world):
    settings = recipe(batch_size=12)
    whole = batches_of(process, settings, flip=True).draw(3)
    parts = [
        batches_of(process, settings, Ranks(rank, world, torch.device("cpu")), flip=True).draw(3)
        for rank in range(world)
    ]
    assert {len(part.x0) for part in parts} == {12 // world}
    for name, value in parts_of(whole).items():
        assert torch.equal(torch.cat([parts_of(part)[name] for part in parts]), value), name


def test_threads_draw_the_same_batches_ahead_and_none_beyond_the_last_step(monkeypatch):
    monkeypatch.setattr("psld.utils.randomness.drawing_threads", lambda *_: 3)
    drawn, draw = [], Batches._draw_on_host
    monkeypatch.setattr(
        Batches, "_draw_on_host", lambda self, step: drawn.append(step) or draw(self, step)
    )
    ahead = batches_of(PROCESSES["dsm"], recipe(steps=8))
    found = [ahead.draw(step) for step in range(8)]
    assert sorted(drawn) == list(range(8))
    for step, batch in enumerate(found):
        check_same(batch, batches_of(PROCESSES["dsm"], recipe(steps=1)).draw(step))


def test_a_batch_that_the_ranks_cannot_share_is_refused():
    with pytest.raises(UserError, match=r"training\.batch_size: 12 .* shared equally by 5 ranks"):
        batches_of(PROCESSES["hsm"], recipe(), Ranks(0, 5, torch.device("cpu")))


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


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_micro_batches_are_the_batch_in_parts(process):
    batch = batches_of(process, recipe(batch_size=12)).draw(0)
    parts = list(batch.split(4))
    assert [len(part.x0) for part in parts] == [4, 4, 4]
    for name, value in parts_of(batch).items():
        assert torch.equal(torch.cat([parts_of(part)[name] for part in parts]), value), name
