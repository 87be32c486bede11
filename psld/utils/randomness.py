"""Streams of random numbers, named by a seed, a purpose and indices.

A stream depends on nothing else, so no generator state is saved, and no result depends on the
batch size or the number of ranks.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from enum import IntEnum
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from psld.utils.device import pinned

T = TypeVar("T")


class Stream(IntEnum):
    """The purpose of a stream; no two purposes share one."""

    INITIAL_WEIGHTS = 0
    BATCH = 1
    NOISE = 2
    DROPOUT = 3
    SHARD = 4
    PREVIEW = 5
    LIKELIHOOD = 7
    START = 8


def stream_seed(seed: int, stream: Stream, *index: int) -> int:
    """Return the 63-bit hash of (seed, stream, index)."""
    sequence = np.random.SeedSequence(seed, spawn_key=(stream, *index))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(
    device: torch.device | str, seed: int, stream: Stream, *index: int
) -> torch.Generator:
    """Return a generator on `device` at the start of the stream (seed, stream, index)."""
    return torch.Generator(device).manual_seed(stream_seed(seed, stream, *index))


def standard_normal(key: int, index: int, shape: tuple[int, ...]) -> Tensor:
    """Return standard normal numbers, float32 on the CPU: draw `index` of this key's stream.

    NumPy's counter-based generator Philox draws them. So they are the same bytes on every machine,
    a draw depends on no other, and a smaller draw is the beginning of a larger one.
    """
    # The counter's lower words count within a draw.
    bits = np.random.Philox(key=key, counter=[0, 0, index, 0])
    return torch.from_numpy(np.random.Generator(bits).standard_normal(shape, dtype=np.float32))


class Prefetch(Generic[T]):
    """A function of an index; a thread computes its next value while the last one is used."""

    def __init__(self, function: Callable[[int], T]) -> None:
        self.function = function
        self._pool = ThreadPoolExecutor(1, function.__qualname__)
        self._next: tuple[int, Future[T]] | None = None

    def __call__(self, index: int, prefetch_next: bool = True) -> T:
        """Return function(index), and start on function(index + 1) if `prefetch_next`."""
        begun, self._next = self._next, None
        value = begun[1].result() if begun and begun[0] == index else self.function(index)
        if prefetch_next:
            self._next = (index + 1, self._pool.submit(self.function, index + 1))
        return value

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown(wait=True, cancel_futures=True)


class ShardNoise:
    """Standard normal noise for the states of one shard, one draw after the other.

        with ShardNoise(seed, shard, (1000, 6, 32, 32), device) as noise:
            start = process.prior(noise())

    The noise of shard j comes from (seed, j). It does not depend on the device, and the draws of a
    smaller shard are the first images of a larger one's.

    From the second draw on, a thread draws the next one while the network computes. A sampler that
    adds no noise takes the first alone, and no other is drawn.
    """

    def __init__(self, seed: int, shard: int, shape: tuple[int, ...], device: torch.device) -> None:
        """`shape`: that of all states of the shard, N×kC×H×W."""
        self.key = stream_seed(seed, Stream.SHARD, shard)
        self.shape = shape
        self.device = device
        self.draws = 0
        self._drawn = Prefetch(self._draw)

    def __call__(self, z: Tensor | None = None) -> Tensor:
        """Return the next draw, on the device. `z` is ignored: a shard's states have one shape."""
        drawn = self._drawn(self.draws, prefetch_next=self.draws > 0)
        self.draws += 1
        return drawn.to(self.device, non_blocking=True)

    def _draw(self, index: int) -> Tensor:
        return pinned(standard_normal(self.key, index, self.shape), self.device)

    def __enter__(self) -> "ShardNoise":
        return self

    def __exit__(self, *_: object) -> None:
        self._drawn.close()
