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
