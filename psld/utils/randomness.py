"""Randomness that belongs to the data, not to the machine: every stream is named by numbers.

A stream is a function of a seed and of what it is for (the step of a training, the index of a
shard), so no generator state has to be saved, and no result depends on batch size or on ranks.
"""

from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """What a stream of random numbers is for; two uses never share one."""

    INITIAL_WEIGHTS = 0
    BATCH = 1
    NOISE = 2
    DROPOUT = 3
    SHARD = 4
    PREVIEW = 5
    MASK = 6


def stream_seed(seed: int, stream: Stream, *index: int) -> int:
    """A seed that is a hash of (seed, stream, index)."""
    sequence = np.random.SeedSequence(seed, spawn_key=(stream, *index))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(
    device: torch.device | str, seed: int, stream: Stream, *index: int
) -> torch.Generator:
    """A generator on `device` at the start of the stream (seed, stream, index)."""
    return torch.Generator(device).manual_seed(stream_seed(seed, stream, *index))
