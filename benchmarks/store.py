"""The speed of a shuffled epoch over the store's memory map, against fancy indexing with h5py.

python -m benchmarks.store
"""

import tempfile
from pathlib import Path

import h5py
import numpy as np

from benchmarks.timing import compare

IMAGES, BATCH = 20_000, 500


def main() -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (IMAGES, 3, 32, 32), dtype=np.uint8)
    order = random.permutation(IMAGES).reshape(-1, BATCH)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.h5"
        with h5py.File(path, "w") as file:
            file["images"] = images
        with h5py.File(path) as file:
            dataset = file["images"]
            offset = dataset.id.get_offset()
            view = np.memmap(path, np.uint8, mode="r", offset=offset, shape=dataset.shape)
            compare(
                f"a shuffled epoch of {IMAGES:,} images, memory map against h5py",
                lambda: [view[indices] for indices in order],
                lambda: [dataset[np.sort(indices)] for indices in order],
                repeats=3,
            )


if __name__ == "__main__":
    main()
