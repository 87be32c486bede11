"""Small images for the tests of extractors, for psld and for torch-fidelity."""

import numpy as np
import torch
from torch.utils.data import Dataset


def images(n: int, brightest: int, seed: int) -> np.ndarray:
    """uint8 n×3×32×32 of 8×8 coarse squares."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, brightest, (n, 3, 8, 8), dtype=np.uint8)
    return coarse.repeat(4, axis=2).repeat(4, axis=3)


class AsDataset(Dataset):
    """An array as torch-fidelity wants it."""

    def __init__(self, array: np.ndarray) -> None:
        self.tensor = torch.from_numpy(array)

    def __len__(self) -> int:
        return len(self.tensor)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.tensor[index]
