"""The noise of a shard: the same bytes on every machine, drawn ahead of time by a thread."""

import torch
from torch import Tensor

from psld.utils.device import pinned
from psld.utils.randomness import Prefetch, Stream, standard_normal, stream_seed


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
