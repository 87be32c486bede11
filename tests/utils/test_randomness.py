"""The noise of a shard: fixed bytes, independent draws, and threads that end with the noise."""

import hashlib
import threading

import numpy as np
import pytest
import torch

from psld.utils import randomness
from psld.utils.randomness import (
    MOST_THREADS,
    ShardNoise,
    Stream,
    drawing_threads,
    generator,
    stream_seed,
)

CPU = torch.device("cpu")
SHAPE = (50, 2, 8, 8)
FIRST = [-0.03158869966864586, -1.0075258016586304, -0.3614017069339752]
THIRD = "7e0b9efcf85adc27"


def draws(count: int, seed=0, shard=0, shape=SHAPE) -> list[torch.Tensor]:
    with ShardNoise(seed, shard, shape, CPU) as noise:
        return [noise(None) for _ in range(count)]


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if "ShardNoise" in thread.name}


def test_the_noise_has_fixed_bytes():
    """A change of these bytes, on any machine or in any version, changes every sampled image."""
    first, _, third = draws(3, seed=7, shard=3, shape=(2, 1, 2, 2))
    assert first.flatten()[:3].tolist() == FIRST
    assert hashlib.sha256(third.numpy().tobytes()).hexdigest()[:16] == THIRD


def test_a_draw_depends_neither_on_earlier_draws_nor_on_the_device():
    """A meta device stands for any other device, because draws do not depend on the device."""
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


def test_uniform_numbers_are_independent_of_the_draws():
    """These numbers choose the component of the initial mixture for each state."""
    with ShardNoise(3, 5, SHAPE, CPU) as noise:
        first = noise.uniform()
        noise()
        assert torch.equal(noise.uniform(), first)
        assert first.shape == (50,)
        assert 0 <= first.min() < 0.2 < 0.8 < first.max() < 1
        for index in range(3):
            bits = np.random.Philox(key=noise.key, counter=[0, 0, index, 0])
            assert not np.isin(first.numpy(), np.random.Generator(bits).random(500)).any()
    for seed, shard in ((4, 5), (3, 6)):
        with ShardNoise(seed, shard, SHAPE, CPU) as other:
            assert not torch.equal(other.uniform(), first)


def test_a_stream_depends_on_seed_purpose_and_all_indices():
    names = [(0, Stream.BATCH), (1, Stream.BATCH), (0, Stream.NOISE), (0, Stream.BATCH, 0)]
    names += [(0, Stream.BATCH, 1), (0, Stream.BATCH, 0, 1), (0, Stream.BATCH, 1, 0)]
    firsts = {torch.rand(1, generator=generator("cpu", *name)).item() for name in names}
    assert len(firsts) == len(names)
    assert len({stream_seed(*name) for name in names}) == len(names)
    assert all(0 <= stream_seed(*name) < 2**63 for name in names)
    assert len(set(Stream)) == len(Stream.__members__), "no two purposes share one"


def test_the_thread_ends_with_the_shard_also_after_a_failure():
    with ShardNoise(0, 0, SHAPE, CPU) as noise:
        noise.expect(3)
        noise()
        assert threads()
    assert not threads()
    with pytest.raises(ZeroDivisionError), ShardNoise(0, 0, SHAPE, CPU) as noise:
        _ = [noise.expect(3), noise(), 1 / 0]
    assert not threads()


@pytest.mark.parametrize("count", [1, 3, 8])
def test_threads_draw_the_same_bytes_ahead_but_none_after_the_last_draw(monkeypatch, count):
    """The sampler takes five draws after the start."""
    started, drawn, draw = threading.Barrier(min(count, 5)), [], ShardNoise._draw

    def noted(self, index):
        drawn.append(index)
        if 0 < index <= started.parties:
            started.wait(60)  # until this number of threads draw at the same time
        return draw(self, index)

    expected = draws(6)
    monkeypatch.setattr(ShardNoise, "_draw", noted)
    monkeypatch.setattr(randomness, "drawing_threads", lambda *_: count)
    with ShardNoise(0, 0, SHAPE, CPU) as noise:
        found = [noise()]
        assert not threads(), "RK45 takes no more"
        noise.expect(5)
        found += [noise() for _ in range(5)]
    assert all(map(torch.equal, found, expected))
    assert sorted(drawn) == [0, 1, 2, 3, 4, 5]


def test_the_number_of_threads_is_limited_by_cores_and_memory(monkeypatch):
    gpu, found = torch.device("cuda"), {}
    for cores in (1, 4, 64):
        monkeypatch.setattr(randomness, "cores", lambda: cores)  # noqa: B023
        found[cores] = drawing_threads(gpu, SHAPE)
    assert found == {1: 1, 4: 3, 64: MOST_THREADS}
    assert drawing_threads(gpu, (1000, 6, 128, 128)) == 5, "2 GiB"
    assert drawing_threads(gpu, (64, 0, 8, 8)) == MOST_THREADS, "no noise"
    assert drawing_threads(CPU, SHAPE) == 1


def test_an_error_in_the_thread_is_raised_where_the_noise_is_taken(monkeypatch):
    draw = ShardNoise._draw

    def fail(self, index):
        if index == 2:
            raise MemoryError("no memory for noise")
        return draw(self, index)

    monkeypatch.setattr(ShardNoise, "_draw", fail)
    with ShardNoise(0, 0, SHAPE, CPU) as noise:
        _ = [noise(), noise.expect(2), noise()]
        with pytest.raises(MemoryError, match="no memory for noise"):
            noise()
    assert not threads()
