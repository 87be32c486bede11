"""Measure the time that CPU threads take to draw the noise of a shard.

python -m benchmarks.noise
"""

import os
from collections.abc import Callable
from functools import partial
from unittest import mock

import torch
from torch import Tensor

from benchmarks.timing import compare
from psld.utils import randomness
from psld.utils.randomness import ShardNoise

CPU = torch.device("cpu")
SHAPE, STEPS = (250, 6, 32, 32), 10
SIDE = 1024  # size of the matrices; their products simulate a network


def main() -> None:
    """Draw the noise of 250 CIFAR-10 images with momentum; matrix products simulate a network."""
    weights, z = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)

    def network() -> Tensor:
        for _ in range(40):
            result = z @ weights
        return result

    def without() -> None:
        for _ in range(STEPS):
            network()

    def by_torch() -> None:
        generator = torch.Generator().manual_seed(0)
        for _ in range(STEPS):
            torch.randn(SHAPE, generator=generator)

    compare(f"{STEPS} draws for 250 images against torch's generator", drawn, by_torch)
    with_noise = f"{STEPS} steps with noise against the same without"
    compare(with_noise, lambda: drawn(network), without, repeats=3)
    for threads in range(2, len(os.sched_getaffinity(0)) + 1):
        several = f"{2 * STEPS} draws by {threads} threads, as for a GPU, against one"
        compare(several, partial(drawn_by, threads), partial(drawn_by, 1), repeats=15)


def drawn(between: Callable[[], object] = lambda: None, draws: int = STEPS) -> None:
    """Draw the noise `draws` times, and call `between` before each draw."""
    with ShardNoise(0, 0, SHAPE, CPU) as noise:
        noise.expect(draws)
        for _ in range(draws):
            between()
            noise()


def drawn_by(threads: int) -> None:
    with mock.patch.object(randomness, "drawing_threads", return_value=threads):
        drawn(draws=2 * STEPS)


if __name__ == "__main__":
    main()
