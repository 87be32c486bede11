"""Measure `psld prepare` for large arrays, and batches of tensors against batches of bytes.

    python -m benchmarks.arrays

Prints seconds of CPU and peak memory of `psld prepare` for 1,000,000 byte images 3×32×32 and for
100,000 latents 4×32×32 (float16), relative to the time of `numpy.load` and a checksum; and the time
of a training batch of tensors relative to a batch of bytes with as many values.
"""

import argparse
import statistics
import tempfile
from contextlib import closing
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from benchmarks.timing import used
from psld.config.compose import compose_content
from psld.config.settings import parse
from psld.data.units import BYTES, Units
from psld.models.build import build_process, loss_of
from psld.training.batches import Batches
from psld.training.ranks import Ranks
from psld.training.settings import TrainSettings

KINDS = {
    "bytes": (1_000_000, (32, 32, 3), np.uint8),
    "latents": (100_000, (4, 32, 32), np.float16),
}
BATCHES, REPEATS, SHAPE = 200, 5, (4, 16, 16)


def write(path: Path, count: int, shape: tuple[int, ...], dtype: type) -> None:
    """Write random numbers, of which 1,000 elements are repeated."""
    random = np.random.default_rng(0)
    if dtype is np.uint8:
        few = random.integers(256, size=(1000, *shape), dtype=np.uint8)
    else:
        few = random.standard_normal((1000, *shape)).astype(dtype)
    # Without a memory map, whose pages would count as memory of the child processes.
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (count, *shape)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, count, len(few)):
            few[: count - start].tofile(file)


def prepare(kind: str, scale: float) -> str:
    count, shape, dtype = KINDS[kind]
    count = int(count * scale)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        write(place / "x.npy", count, shape, dtype)
        words = ["dataset.name=x", "dataset.source.path=x.npy", "output=x.h5"]
        if kind == "bytes":
            words += ["dataset=folder", "dataset.source=array", "dataset.image_size=32"]
        else:
            words += ["dataset=tensors", "dataset.channels=4", "dataset.image_size=32"]
        usage = used(place, "-m", "psld", "prepare", *words)
        read = "import hashlib, numpy as np; a = np.load('x.npy', mmap_mode='r')\n"
        read += "for i in range(0, len(a), 1000): hashlib.sha256(np.array(a[i : i + 1000]))"
        plain = used(place, "-c", read)
    seconds, least = (each.ru_utime + each.ru_stime for each in (usage, plain))
    memory = usage.ru_maxrss / 1024
    return (
        f"prepare {count:,} {kind} {'×'.join(map(str, shape))}: {seconds:.1f} CPU s, "
        f"{seconds / least:.1f} of reading and hashing the array; {memory:.0f} MB"
    )


def batch_seconds(images: np.ndarray, units: Units) -> float:
    content = compose_content("train", ["dataset=digits", "name=x"], "benchmark")
    settings = parse(TrainSettings, content, "benchmark")
    noising = loss_of(settings, build_process(settings)).noising
    ranks = Ranks(0, 1, torch.device("cpu"))
    batches = Batches(images, False, noising, settings.training, ranks, None, units)
    with closing(batches):
        batches.draw(0)
        started = perf_counter()
        for step in range(1, BATCHES):
            batches.draw(step)
        return perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0)
    scale = parser.parse_args().scale
    for kind in KINDS:
        print(prepare(kind, scale), flush=True)
    random = np.random.default_rng(0)
    bytes_ = random.integers(256, size=(4000, *SHAPE), dtype=np.uint8)
    floats = random.standard_normal((4000, *SHAPE), dtype=np.float32)
    units = Units(mean=(0.1,) * SHAPE[0], std=(1.1,) * SHAPE[0])
    pairs = [(batch_seconds(floats, units), batch_seconds(bytes_, BYTES)) for _ in range(REPEATS)]
    ratios = sorted(a / b for a, b in pairs)
    print(
        f"batches of tensors against bytes: ratio {statistics.median(ratios):.2f} "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


if __name__ == "__main__":
    main()
