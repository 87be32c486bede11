"""Streams of random numbers, identified by a seed, a purpose and indices.

A stream depends only on its seed, purpose and indices. Checkpoints thus need no generator states,
and results do not depend on the batch size or the number of ranks.
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
"""Maximum number of threads that draw noise in a process. A thread draws 1e8 numbers per second."""
AHEAD_BYTES = 2 << 30
"""Maximum memory of prefetched draws, in bytes."""


class Stream(IntEnum):
    """The purpose of a stream. Each purpose has its own streams."""

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
    """Return draw `index` from the stream of a key: standard normal numbers, float32 on the CPU.

    The numbers come from Philox, NumPy's counter-based generator. The numbers are identical on all
    machines. Draws with different indices are independent. For the same key and index, a
    smaller draw is a prefix of a larger draw.

    Args:
        device: the device to which the tensor will be copied. For a GPU, the tensor is in pinned
            memory.
        block: number of images that share a stream (key, index, number of the block), so that
            blocks can be drawn separately. None means one stream for the complete draw. A stream
            cannot be entered in the middle, because the ziggurat algorithm uses a varying number of
            outputs of the generator.
        first: the number of the first block to draw.
    """
    # Allocate a new tensor for each draw. torch reuses pinned memory after a copy has finished.
    pinned = device.type == "cuda"
    drawn = torch.empty(shape, dtype=torch.float32, device="cpu", pin_memory=pinned)
    parts = [drawn] if block is None else drawn.split(block)
    for number, part in enumerate(parts, first + (block is not None)):
        # Within a block, the generator increments the lower words of the counter, so only the
        # upper words identify the draw and the block.
        bits = np.random.Philox(key=key, counter=[0, 0, index, number])
        np.random.Generator(bits).standard_normal(dtype=np.float32, out=part.numpy())
    return drawn


def drawing_threads(device: torch.device, shape: tuple[int, ...]) -> int:
    """Return the number of threads that draw float32 noise of this shape for a device.

    For a GPU, this is one thread for each CPU core except one core, which launches kernels.
    `MOST_THREADS` and `AHEAD_BYTES` limit this number. For a CPU, this is one thread, because the
    network needs the cores.
    """
    if device.type != "cuda":
        return 1
    return max(1, min(cores() - 1, MOST_THREADS, AHEAD_BYTES // max(1, 4 * math.prod(shape))))


class Prefetch(Generic[T]):
    """Wraps a function of an index. Threads compute the next values of the function in advance."""

    def __init__(
        self, function: Callable[[int], T], device: torch.device, shape: tuple[int, ...]
    ) -> None:
        """
        Args:
            function: the function, which draws noise.
            device: the device that uses the noise.
            shape: the shape of the noise for one index.
        """
        self.function, self.threads = function, drawing_threads(device, shape)
        self._pool = ThreadPoolExecutor(self.threads, function.__qualname__)
        self._begun: dict[int, Future[T]] = {}

    def __call__(self, index: int, end: int) -> T:
        """Return function(index), and start to compute the following values, one per thread.

        Only values for indices below `end` are computed.
        """
        begun = self._begun.pop(index, None)
        value = begun.result() if begun else self.function(index)
        self.begin(range(index + 1, min(index + 1 + self.threads, end)))
        return value

    def begin(self, indices: range) -> None:
        """Start to compute the values for these indices, and discard all other values."""
        submit, begun = self._pool.submit, self._begun
        self._begun = {i: begun.get(i) or submit(self.function, i) for i in indices}

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


class ShardNoise:
    """Successive draws of standard normal noise for the states of one shard.

        with ShardNoise(seed, shard, (1000, 6, 32, 32), device) as noise:
            start = process.prior(noise())

    The noise of shard j depends only on (seed, j), not on the device. A smaller shard has the same
    noise as the first images of a larger shard.

    After `expect` has set the number of draws, threads prefetch the next draws while the network
    computes. The threads prefetch no draw beyond this number.
    """

    def __init__(self, seed: int, shard: int, shape: tuple[int, ...], device: torch.device) -> None:
        """
        Args:
            shape: the shape of all states of the shard, N×kC×H×W.
        """
        self.key = stream_seed(seed, Stream.SHARD, shard)
        self.shape = shape
        self.device = device
        self.draws = self.end = 0
        self._drawn = Prefetch(self._draw, device, shape)

    def expect(self, draws: int) -> None:
        """Set the number of draws that follow, and start to prefetch them."""
        self.end = self.draws + draws
        self._drawn.begin(range(self.draws, min(self.draws + self._drawn.threads, self.end)))

    def __call__(self, z: Tensor | None = None) -> Tensor:
        """Return the next draw on the device. `z` is ignored, because all draws have one shape."""
        drawn = self._drawn(self.draws, self.end)
        self.draws += 1
        return drawn.to(self.device, non_blocking=True)

    def uniform(self) -> Tensor:
        """Return one uniform number in [0, 1) per state, on the CPU.

        Each call returns the same numbers.
        """
        # In `_draw`, the last word of the counter is 0, so these numbers are independent of draws.
        bits = np.random.Philox(key=self.key, counter=[0, 0, 0, 1])
        return torch.from_numpy(np.random.Generator(bits).random(self.shape[0]))

    def _draw(self, index: int) -> Tensor:
        return standard_normal(self.key, index, self.shape, self.device)

    def __enter__(self) -> "ShardNoise":
        return self

    def __exit__(self, *_: object) -> None:
        self._drawn.close()
