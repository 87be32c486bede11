"""Stand-ins for published networks, with random weights, and small images for them."""

import math
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from psld.metrics.published import Inception


def write_random_inception(path: Path) -> Path:
    """Set seeded random weights, scaled so that the features have order one."""
    random = torch.Generator().manual_seed(0)
    state = Inception(None).state_dict()
    for name, value in state.items():
        if name.endswith("conv.weight"):
            gain = (2 / value[0].numel()) ** 0.5
            state[name] = gain * torch.randn(value.shape, generator=random)
        elif name == "fc.weight":
            state[name] = 0.5 * torch.randn(value.shape, generator=random)
    torch.save(state, path)
    return path


def random_dinov2(width: int, depth: int) -> dict[str, torch.Tensor]:
    """Return weights of a DINOv2 network with Meta's names."""
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + 37**2, width),
        "mask_token": (1, width),
        "patch_embed.proj.weight": (width, 3, 14, 14),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    layers = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
    for block in (f"blocks.{i}." for i in range(depth)):
        for name, (outputs, inputs) in layers.items():
            shapes[f"{block}{name}.weight"] = (outputs * width, inputs * width)
            shapes[f"{block}{name}.bias"] = (outputs * width,)
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            shapes[f"{block}{name}"] = (width,)
        shapes |= {f"{block}ls{i}.gamma": (width,) for i in (1, 2)}
    random = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in shapes.items():
        scale = 1 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.5
        weights[name] = scale * torch.randn(shape, generator=random)
        if name.endswith(("gamma", "norm.weight", "norm1.weight", "norm2.weight")):
            weights[name] += 1
    return weights


def images(n: int, brightest: int, seed: int) -> np.ndarray:
    """Return images of 8×8 coarse squares, uint8 n×3×32×32."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, brightest, (n, 3, 8, 8), dtype=np.uint8)
    return coarse.repeat(4, axis=2).repeat(4, axis=3)


class AsDataset(Dataset):
    """An array as a dataset for torch-fidelity."""

    def __init__(self, array: np.ndarray) -> None:
        self.tensor = torch.from_numpy(array)

    def __len__(self) -> int:
        return len(self.tensor)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.tensor[index]
