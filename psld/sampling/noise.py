"""The noise of a shard: the same bytes on every machine, drawn ahead of time by a thread."""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from psld.utils.randomness import Stream, stream_seed


class ShardNoise:
    """Standard normal noise for the states of one shard, one draw after the other.

        with ShardNoise(seed, shard, (1000, 6, 32, 32), device) as noise:
            start = process.prior(noise())

    Draw number i of shard j comes from NumPy's counter-based generator Philox, with a key made of
    (seed, j) and the counter i. It depends neither on the device nor on other draws, and the draws
    of a smaller shard are the first images of a larger one's.

    From the second draw on, a thread draws the next one while the network computes. A sampler that
    adds no noise takes the first alone, and no other is drawn.
    """

    def __init__(self, seed: int, shard: int, shape: tuple[int, ...], device: torch.device) -> None:
        """`shape`: that of all states of the shard, N×kC×H×W."""
        self.key = stream_seed(seed, Stream.SHARD, shard)
        self.shape = shape
        self.device = device
        self.draws = 0
        self._pool = ThreadPoolExecutor(1, "noise")
        self._next: Future[Tensor] | None = None

    def __call__(self, z: Tensor | None = None) -> Tensor:
        """The next draw, on the device; `z` is ignored: all states of a shard have one shape."""
        drawn = self._next.result() if self._next else self._draw(self.draws)
        if self.draws > 0:
            self._next = self._pool.submit(self._draw, self.draws + 1)
        self.draws += 1
        return drawn.to(self.device, non_blocking=True)

    def _draw(self, index: int) -> Tensor:
        # The counter's lower words count within a draw.
        bits = np.random.Philox(key=self.key, counter=[0, 0, index, 0])
        drawn = torch.from_numpy(
            np.random.Generator(bits).standard_normal(self.shape, dtype=np.float32)
        )
        return drawn.pin_memory() if self.device.type == "cuda" else drawn

    def __enter__(self) -> "ShardNoise":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
