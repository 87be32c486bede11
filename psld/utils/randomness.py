"""Streams of random numbers, named by a seed, a purpose and indices.

A stream depends on nothing else, so no generator state is saved, and no result depends on the
batch size or the number of ranks.
"""

import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from enum import IntEnum
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from psld.utils.device import cores

T = TypeVar("T")

MOST_THREADS = 8
"""Of one process that draw noise. One of them draws 100 million numbers a second."""
AHEAD_BYTES = 2 << 30
"""The most memory of draws that are ahead of their use."""


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
    SAMPLER = 9
    REBUILT_WEIGHTS = 10


def stream_seed(seed: int, stream: Stream, *index: int) -> int:
    """Return the 63-bit hash of (seed, stream, index)."""
    sequence = np.random.SeedSequence(seed, spawn_key=(stream, *index))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(
    device: torch.device | str, seed: int, stream: Stream, *index: int
) -> torch.Generator:
    """Return a generator on `device` at the start of the stream (seed, stream, index)."""
    return torch.Generator(device).manual_seed(stream_seed(seed, stream, *index))


def standard_normal(
    key: int,
    index: int,
    shape: tuple[int, ...],
    device: torch.device,
    block: int | None = None,
    first: int = 0,
) -> Tensor:
    """Return standard normal numbers, float32 on the CPU: draw `index` of this key's stream.

    NumPy's counter-based generator Philox draws them. So they are the same bytes on every machine,
    a draw depends on no other, and a smaller draw is the beginning of a larger one. They are in
    pinned memory if `device`, to which they will be copied, is a GPU.

    Args:
        block: images with a stream of their own, (key, index, block), so that a part of a draw can
            be drawn alone; None: one stream, which can be entered at its beginning only, because
            the ziggurat takes a varying number of the generator's outputs.
        first: the number of the first of these blocks.
    """
    # A new tensor for each draw: torch takes the memory of an earlier one when its copy has ended.
    pinned = device.type == "cuda"
    drawn = torch.empty(shape, dtype=torch.float32, device="cpu", pin_memory=pinned)
    parts = [drawn] if block is None else drawn.split(block)
    for number, part in enumerate(parts, first + (block is not None)):
        # The counter's lower words count within a part.
        bits = np.random.Philox(key=key, counter=[0, 0, index, number])
        np.random.Generator(bits).standard_normal(dtype=np.float32, out=part.numpy())
    return drawn


def drawing_threads(device: torch.device, shape: tuple[int, ...]) -> int:
    """Return how many threads draw float32 numbers of this shape, one draw each, for a device.

    For a GPU, as many as this process has cores but one, which launches the GPU's kernels, and at
    most `MOST_THREADS` and `AHEAD_BYTES`. A CPU has its cores for the network.
    """
    if device.type != "cuda":
        return 1
    return max(1, min(cores() - 1, MOST_THREADS, AHEAD_BYTES // max(1, 4 * math.prod(shape))))


class Prefetch(Generic[T]):
    """A function of an index; threads compute its next values while the last one is used."""

    def __init__(
        self, function: Callable[[int], T], device: torch.device, shape: tuple[int, ...]
    ) -> None:
        """`shape`: of the noise in a value, which is for this device."""
        self.function, self.threads = function, drawing_threads(device, shape)
        self._pool = ThreadPoolExecutor(self.threads, function.__qualname__)
        self._begun: dict[int, Future[T]] = {}

    def __call__(self, index: int, end: int) -> T:
        """Return function(index), and let each thread begin one of the next, all below `end`."""
        begun = self._begun.pop(index, None)
        value = begun.result() if begun else self.function(index)
        self.begin(range(index + 1, min(index + 1 + self.threads, end)))
        return value

    def begin(self, indices: range) -> None:
        """Let the threads compute the values of these indices, and forget those of others."""
        submit, begun = self._pool.submit, self._begun
        self._begun = {i: begun.get(i) or submit(self.function, i) for i in indices}

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


class ShardNoise:
    """Standard normal noise for the states of one shard, one draw after the other.

        with ShardNoise(seed, shard, (1000, 6, 32, 32), device) as noise:
            start = process.prior(noise())

    The noise of shard j comes from (seed, j). It does not depend on the device, and the draws of a
    smaller shard are the first images of a larger one's.

    Once it is told how many draws a sampler takes, threads draw the next ones while the network
    computes, and none beyond the last.
    """

    def __init__(self, seed: int, shard: int, shape: tuple[int, ...], device: torch.device) -> None:
        """`shape`: that of all states of the shard, N×kC×H×W."""
        self.key = stream_seed(seed, Stream.SHARD, shard)
        self.shape = shape
        self.device = device
        self.draws = self.end = 0
        self._drawn = Prefetch(self._draw, device, shape)

    def expect(self, draws: int) -> None:
        """Begin with the next `draws` of them."""
        self.end = self.draws + draws
        self._drawn.begin(range(self.draws, min(self.draws + self._drawn.threads, self.end)))

    def __call__(self, z: Tensor | None = None) -> Tensor:
        """Return the next draw, on the device. `z` is ignored: a shard's states have one shape."""
        drawn = self._drawn(self.draws, self.end)
        self.draws += 1
        return drawn.to(self.device, non_blocking=True)

    def uniform(self) -> Tensor:
        """Return one number in [0, 1) for each state, on the CPU: the same at every call."""
        # The counter's last word is not used by the draws.
        bits = np.random.Philox(key=self.key, counter=[0, 0, 0, 1])
        return torch.from_numpy(np.random.Generator(bits).random(self.shape[0]))

    def _draw(self, index: int) -> Tensor:
        return standard_normal(self.key, index, self.shape, self.device)

    def __enter__(self) -> "ShardNoise":
        return self

    def __exit__(self, *_: object) -> None:
        self._drawn.close()
