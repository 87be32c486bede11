"""Streams of random numbers, named by a seed, a purpose and indices.

A stream depends on nothing else, so no generator state is saved, and no result depends on the
batch size or the number of ranks.
"""

from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """The purpose of a stream; no two purposes share one."""

    INITIAL_WEIGHTS = 0
    BATCH = 1
    NOISE = 2
    DROPOUT = 3
    SHARD = 4
    PREVIEW = 5
    MASK = 6
    LIKELIHOOD = 7


def stream_seed(seed: int, stream: Stream, *index: int) -> int:
    """The 63-bit hash of (seed, stream, index)."""
    sequence = np.random.SeedSequence(seed, spawn_key=(stream, *index))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(
    device: torch.device | str, seed: int, stream: Stream, *index: int
) -> torch.Generator:
    """A generator on `device` at the start of the stream (seed, stream, index)."""
    return torch.Generator(device).manual_seed(stream_seed(seed, stream, *index))
