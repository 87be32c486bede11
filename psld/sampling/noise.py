"""The noise of a shard: the same bytes on every machine, drawn ahead of time by a thread."""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from psld.utils.randomness import Stream, stream_seed


class ShardNoise:
    """Standard normal noise for the states of one shard, one draw after the other.

        noise = ShardNoise(seed, shard, (1000, 6, 32, 32), device)
        start = process.prior(noise())

    Draw number i of shard j comes from NumPy's counter-based generator Philox with a key made of
    (seed, j) and the counter i. So it depends neither on the device nor on other draws. A thread
    draws the next one while the network computes.
    """

    def __init__(self, seed: int, shard: int, shape: tuple[int, ...], device: torch.device) -> None:
        """`shape`: that of all states of the shard, N×kC×H×W."""
        self.key = stream_seed(seed, Stream.SHARD, shard)
        self.shape = shape
        self.device = device
        self.draws = 0
        self._pool = ThreadPoolExecutor(1)
        self._next: Future[Tensor] = self._pool.submit(self._draw, 0)

    def __call__(self, z: Tensor | None = None) -> Tensor:
        """The next draw, on the device; `z` is ignored: all states of a shard have one shape."""
        drawn = self._next.result()
        self.draws += 1
        self._next = self._pool.submit(self._draw, self.draws)
        return drawn.to(self.device, non_blocking=True)

    def _draw(self, index: int) -> Tensor:
        # The counter's lowest word counts within a draw.
        bits = np.random.Philox(key=self.key, counter=[0, 0, index, 0])
        drawn = torch.from_numpy(
            np.random.Generator(bits).standard_normal(self.shape, dtype=np.float32)
        )
        return drawn.pin_memory() if self.device.type == "cuda" else drawn

    def __enter__(self) -> "ShardNoise":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
