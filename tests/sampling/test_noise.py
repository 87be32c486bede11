"""The noise of a shard: fixed bytes, independent draws, and the end of its thread."""

import hashlib
import threading

import pytest
import torch

from psld.utils.randomness import ShardNoise

CPU = torch.device("cpu")
SHAPE = (50, 2, 8, 8)
FIRST = [-0.03158869966864586, -1.0075258016586304, -0.3614017069339752]
THIRD = "7e0b9efcf85adc27"


def draws(count: int, seed=0, shard=0, shape=SHAPE) -> list[torch.Tensor]:
    with ShardNoise(seed, shard, shape, CPU) as noise:
        return [noise(None) for _ in range(count)]


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if "ShardNoise" in thread.name}


def test_the_bytes_are_these():
    """On every machine and in every version: a change here changes every image that is sampled."""
    first, _, third = draws(3, seed=7, shard=3, shape=(2, 1, 2, 2))
    assert first.flatten()[:3].tolist() == FIRST
    assert hashlib.sha256(third.numpy().tobytes()).hexdigest()[:16] == THIRD


def test_a_draw_depends_neither_on_those_before_nor_on_the_device():
    """A meta device stands for any other: what is drawn does not ask which one it is."""
    with ShardNoise(0, 0, SHAPE, torch.device("meta")) as elsewhere:
        again = [elsewhere._draw(index) for index in (2, 0, 1)]
    for index, expected in zip((1, 2, 0), draws(3), strict=True):
        assert torch.equal(again[index], expected)


def test_a_smaller_shard_has_the_noise_of_the_first_images():
    for whole, part in zip(draws(3), draws(3, shape=(7, *SHAPE[1:])), strict=True):
        assert torch.equal(whole[:7], part)


def test_draws_shards_and_seeds_are_independent():
    streams = [*draws(4), *draws(4, shard=1), *draws(4, seed=1)]
    values = torch.stack(streams).flatten(1).double()
    count = values.shape[1]
    assert values.mean(dim=1).abs().max() < 5 / count**0.5
    correlation = values @ values.T / count
    assert (correlation - torch.eye(len(values))).abs().max() < 6 / count**0.5


def test_the_thread_ends_with_the_shard_also_after_a_failure():
    with ShardNoise(0, 0, SHAPE, CPU) as noise:
        for _ in range(3):
            noise()
        assert threads()
    assert not threads()
    with pytest.raises(ZeroDivisionError), ShardNoise(0, 0, SHAPE, CPU) as noise:
        _ = [noise(), noise(), 1 / 0]
    assert not threads()


def test_a_sampler_without_noise_draws_only_the_start(monkeypatch):
    """As RK45 does."""
    drawn, draw = [], ShardNoise._draw
    monkeypatch.setattr(ShardNoise, "_draw", lambda self, i: drawn.append(i) or draw(self, i))
    draws(1)
    assert drawn == [0]
    assert not threads()
    drawn.clear()
    draws(4)
    assert drawn[:4] == [0, 1, 2, 3], "one ahead"


def test_an_error_in_the_thread_is_raised_where_the_noise_is_taken(monkeypatch):
    draw = ShardNoise._draw

    def fail(self, index):
        if index == 2:
            raise MemoryError("no memory for noise")
        return draw(self, index)

    monkeypatch.setattr(ShardNoise, "_draw", fail)
    with ShardNoise(0, 0, SHAPE, CPU) as noise:
        _ = [noise(), noise()]
        with pytest.raises(MemoryError, match="no memory for noise"):
            noise()
    assert not threads()
