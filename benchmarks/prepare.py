"""Compare `psld prepare` on a folder of pictures with a plain loop of Pillow and h5py.

    python -m benchmarks.prepare --pictures 20000

The two programs run alternately in separate processes, whose CPU seconds are measured. The loop
decodes all pictures into one array, and writes this array with one call.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from benchmarks.timing import used

REPEATS = 5
KINDS = {"png": 32, "jpg": 64}
"""Width and height of the pictures in pixels, keyed by the file name extension."""


def write_pictures(folder: Path, ending: str, side: int, count: int) -> None:
    """Write random pictures of smooth colors, which compress about as well as photographs."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(count):
        small = Image.fromarray(random.integers(256, size=(8, 8, 3), dtype=np.uint8))
        small.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{i:06d}.{ending}")


def plain_loop(folder: str, side: int) -> None:
    files = sorted(Path(folder).iterdir())
    images = np.empty((len(files), 3, side, side), np.uint8)
    for i, file in enumerate(files):
        with Image.open(file) as opened:
            picture = opened.convert("RGB")
        if picture.size != (side, side):
            picture = picture.resize((side, side), Image.Resampling.LANCZOS)
        images[i] = np.asarray(picture).transpose(2, 0, 1)
    with h5py.File("loop.h5", "w") as output:
        output.create_dataset("images", data=images)


def seconds(place: Path, *command: str) -> float:
    """Return the CPU seconds of a process that stores its compiled modules in `place`."""
    compiled = {"PYTHONPYCACHEPREFIX": str(place / "compiled"), "PYTHONDONTWRITEBYTECODE": ""}
    usage = used(place, *command, **compiled)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=20_000)
    count = parser.parse_args().pictures
    for ending, side in KINDS.items():
        with tempfile.TemporaryDirectory() as name:
            folder = (place := Path(name)) / "pictures"
            write_pictures(folder, ending, side, count)
            words = f"dataset=folder dataset.name=x dataset.source.root={folder} output=x.h5"
            ours = f"-m psld prepare {words} dataset.image_size={side} replace=true".split()
            loop = f"from benchmarks.prepare import plain_loop; plain_loop('{folder}', {side})"
            seconds(place, *ours), seconds(place, "-c", loop)
            pairs = [(seconds(place, *ours), seconds(place, "-c", loop)) for _ in range(REPEATS)]
        ratios = sorted(a / b for a, b in pairs)
        a, b = (statistics.median(times) for times in zip(*pairs, strict=True))
        print(
            f"{count:,} {ending} of {side}×{side}: {a:.2f} s against {b:.2f} s, "
            f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


if __name__ == "__main__":
    main()
