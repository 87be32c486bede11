"""Measure the time and the memory of a Fréchet distance between large sets of images.

python -m benchmarks.evaluate --images 50000 --reference 1000000 --features 2048

The images are random, 1×8×8. The extractor is a random projection of their 64 pixels, so most of
the time is spent on the moments. The features have rank 64, so the distances take less time than
the distances of a network's features (`python -m benchmarks.metrics`).
"""

import argparse
import resource
import time

import torch

import psld


def random_images(n: int, seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, 1, 8, 8), dtype=torch.uint8, generator=random)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--reference", type=int, default=1_000_000, help="images of the reference")
    parser.add_argument("--features", type=int, default=2048)
    given = parser.parse_args()
    projection = torch.randn(64, given.features, generator=torch.Generator().manual_seed(0))

    def extractor(images: torch.Tensor) -> torch.Tensor:
        return (images.flatten(1) / 128 - 1) @ projection.to(images.device)

    sets = random_images(given.images, 1), random_images(given.reference, 2)
    started = time.monotonic()
    result = psld.evaluate(*sets, "frechet@pixels", extractor=extractor, device="cpu")
    seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{given.images:,} images, {given.reference:,} in the reference: {result.value:.4g}")
    print(f"{seconds:.0f} s, at most {peak:.2f} GiB")


if __name__ == "__main__":
    main()
