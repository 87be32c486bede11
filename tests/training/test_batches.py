"""Batches: a function of (seed, step) only, split among the ranks, with labels."""

import threading
from dataclasses import fields, replace
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from psld.data.units import from_uint8
from psld.diffusion.loss import EpsilonLoss, NoisyImages, NoisyStates
from psld.diffusion.settings import NoiseLaw
from psld.models.objectives import Denoiser, Loss
from psld.training.batches import Batch, Batches, Labels
from psld.training.ranks import Ranks
from psld.utils.errors import UserError
from tests.diffusion.processes import phase_space
from tests.diffusion.processes import recipe as third_order
from tests.training.small import ONE_RANK, batches_of, random_images, recipe

HSM, DSM = phase_space(0.02), third_order(matching="dsm")
CPU = torch.device("cpu")
CLASSES = 10


def numbered() -> tuple[np.ndarray, np.ndarray]:
    """Return 50 images whose pixels equal the number of the image, and labels derived from it."""
    numbers = np.arange(50)
    images = np.broadcast_to(numbers[:, None, None, None], (50, 1, 8, 8)).astype(np.uint8)
    return images, numbers * 7 % CLASSES


def labelled(dropout: float = 0.3, ranks: Ranks = ONE_RANK, **changes) -> Batches:
    images, labels = numbered()
    own = Labels(labels, CLASSES, dropout)
    return Batches(images, True, NoisyStates(HSM), recipe(**changes), ranks, own)


def batches(kind: str, ranks: Ranks = ONE_RANK, **changes) -> Batches:
    if kind == "labels":
        return labelled(ranks=ranks, **changes)
    return batches_of(DSM, recipe(**changes), ranks, flip=True)


def parts_of(batch: Batch) -> dict[str, Tensor]:
    parts = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return {name: part for name, part in parts.items() if part is not None}


def check_same(one: Batch, *others: Batch) -> None:
    """Assert that the first batch is the concatenation of the other batches."""
    for name, value in parts_of(one).items():
        assert torch.equal(torch.cat([parts_of(other)[name] for other in others]), value), name


every_kind = pytest.mark.parametrize("kind", ["noise of more blocks", "labels"])


@every_kind
def test_a_step_always_has_the_same_batch(kind):
    first, again = batches(kind), batches(kind)
    first.draw(0)
    check_same(first.draw(7), again.draw(7))


@every_kind
def test_the_batch_depends_on_step_and_seed(kind):
    places = ((0, 7), (0, 8), (1, 7))
    here, later, other = (batches(kind, seed=seed).draw(step) for seed, step in places)
    for there in (later, other):
        for name, value in parts_of(here).items():
            assert not torch.equal(value, parts_of(there)[name]), name


@every_kind
@pytest.mark.parametrize("block", [None, 1, 2, 5, 16])
def test_the_ranks_share_the_global_batch(kind, block):
    parts = [batches(kind, Ranks(rank, 3, CPU), noise_block=block).draw(3) for rank in range(3)]
    assert {len(part.x0) for part in parts} == {4}
    check_same(batches(kind, noise_block=block).draw(3), *parts)


def test_a_rank_draws_the_noise_of_its_own_blocks():
    rows = {
        block: [
            batches("labels", Ranks(r, 3, CPU), noise_block=block).noise_shape[0] for r in range(3)
        ]
        for block in (None, 2, 5)
    }
    assert rows == {None: [4, 8, 12], 2: [4, 4, 4], 5: [4, 8, 7]}


def test_blocks_and_steps_have_different_noise():
    settings = recipe(batch_size=12, noise_block=4)
    drawn = [batches_of(HSM, settings).draw(step).eps for step in range(2)]
    blocks = [block for eps in drawn for block in eps.split(4)]
    assert all(not torch.equal(a, b) for a, b in combinations(blocks, 2))


@every_kind
def test_micro_batches_are_the_batch_in_parts(kind):
    batch = batches(kind).draw(0)
    parts = list(batch.split(5))
    assert [len(part.x0) for part in parts] == [5, 5, 2]
    check_same(batch, *parts)


def test_a_batch_that_the_ranks_cannot_share_is_refused():
    with pytest.raises(UserError, match=r"training\.batch_size: 12 .* shared equally by 5 ranks"):
        batches_of(HSM, recipe(), Ranks(0, 5, CPU))


def test_noise_is_standard_normal_and_independent_per_block():
    """With DSM, the initial auxiliary noise is standard normal, too. Times lie between `time_eps`
    and 1."""
    settings = recipe(batch_size=1000, time_eps=0.25)
    batch = batches_of(DSM, settings, images=random_images(channels=2)).draw(0)
    assert batch.x0.shape == (1000, 2, 8, 8)
    assert batch.eps.shape == (1000, 6, 8, 8)
    assert batch.auxiliary_eps.shape == (1000, 4, 8, 8)
    assert batch.t.dtype == torch.float64
    assert 0.25 <= batch.t.min() < 0.26
    assert 0.99 < batch.t.max() <= 1
    channels = torch.cat([batch.eps, batch.auxiliary_eps], dim=1).transpose(0, 1).flatten(1)
    torch.testing.assert_close(channels.mean(1), torch.zeros(10), atol=0.02, rtol=0)
    torch.testing.assert_close(channels.cov(), torch.eye(10), atol=0.03, rtol=0)


def test_batches_hold_dataset_images_and_flips_mirror_half_of_them():
    images = random_images(5)
    settings = recipe(batch_size=1000)
    drawn = batches_of(HSM, settings, flip=True, images=images).draw(0).x0
    plain = batches_of(HSM, settings, flip=False, images=images).draw(0).x0
    known = {from_uint8(torch.from_numpy(image)).numpy().tobytes() for image in images}
    assert {image.numpy().tobytes() for image in plain} == known
    kept = (drawn == plain).flatten(1).all(dim=1)
    mirrored = (drawn == plain.flip(-1)).flatten(1).all(dim=1)
    assert torch.equal(mirrored, ~kept)
    assert kept.double().mean() == pytest.approx(0.5, abs=0.05)


def test_a_dataset_too_large_for_the_device_gives_the_same_batches(monkeypatch):
    process, settings = HSM, recipe()
    resident = batches_of(process, settings, flip=True)
    monkeypatch.setattr("psld.training.batches.RESIDENT_BYTES", 0)
    mapped = batches_of(process, settings, flip=True)
    assert resident.resident is not None
    assert mapped.resident is None
    check_same(resident.draw(4), mapped.draw(4))


# --- labels ---------------------------------------------------------------------------------------


def numbers_of(batch) -> torch.Tensor:
    """Return the numbers of the images in a batch."""
    return ((batch.x0[:, 0, 0, 0] + 1) * 127.5).round().long()


def test_some_labels_are_dropped_and_the_others_are_correct():
    batch = labelled(0.3, batch_size=5_000).draw(0)
    dropped = batch.labels == CLASSES
    assert dropped.double().mean() == pytest.approx(0.3, abs=0.02)
    assert torch.equal(batch.labels[~dropped], (numbers_of(batch) * 7 % CLASSES)[~dropped])
    assert batch.labels.dtype == torch.int64


def test_labels_do_not_change_the_rest_of_a_batch():
    images, _ = numbered()
    plain = batches_of(HSM, recipe(), flip=True, images=images).draw(4)
    conditional = labelled(0.5).draw(4)
    assert plain.labels is None
    for name in ("x0", "t", "eps"):
        assert torch.equal(getattr(conditional, name), getattr(plain, name)), name


def test_the_network_receives_the_labels_of_its_batch():
    seen = []

    def network(z, t, label):
        seen.append(label)
        return torch.zeros_like(z)

    batch = labelled().draw(0)
    EpsilonLoss(HSM)(network, batch)
    image = replace(batch, eps=batch.eps[:, :1])
    Loss(Denoiser(), SimpleNamespace(deviation=0.5), NoisyImages(NoiseLaw()))(network, image)
    for labels in seen:
        assert torch.equal(labels, batch.labels)
    assert len(seen) == 2


def test_closed_batches_release_the_images_and_stop_their_threads():
    before, drawn = threading.enumerate(), batches("noise")
    drawn.draw(0)
    started = [thread for thread in threading.enumerate() if thread not in before]
    assert any(thread.name.startswith("Batches.") for thread in started)
    drawn.close()
    assert not any(thread.is_alive() for thread in started)
    assert drawn.resident is None
