"""The cost of drawing a shard's noise on the CPU in a thread.

python -m benchmarks.noise
"""

import torch
from torch import Tensor

from benchmarks.timing import compare
from psld.utils.randomness import ShardNoise

CPU = torch.device("cpu")
SHAPE, STEPS = (250, 6, 32, 32), 10


def main() -> None:
    """Draw noise for 250 CIFAR-10 images with momentum; matrix products simulate the network."""
    weights, z = torch.randn(1024, 1024), torch.randn(1024, 1024)

    def network() -> Tensor:
        for _ in range(40):
            result = z @ weights
        return result

    def with_noise() -> None:
        with ShardNoise(0, 0, SHAPE, CPU) as noise:
            for _ in range(STEPS):
                network(), noise()

    def without() -> None:
        for _ in range(STEPS):
            network()

    def drawn() -> None:
        with ShardNoise(0, 0, SHAPE, CPU) as noise:
            for _ in range(STEPS):
                noise()

    def by_torch() -> None:
        generator = torch.Generator().manual_seed(0)
        for _ in range(STEPS):
            torch.randn(SHAPE, generator=generator)

    compare(f"{STEPS} draws for 250 images against torch's generator", drawn, by_torch)
    compare(f"{STEPS} steps with noise against the same without", with_noise, without, repeats=3)


if __name__ == "__main__":
    main()
