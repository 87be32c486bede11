"""The vision transformer of DINOv2 (Oquab et al. 2023), with the parameter names of its weights."""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention

PATCH = 14
"""Pixels along a side of a patch."""

TRAINED_GRID = 37
"""Patches along a side of the training images of the positions, which have 518 pixels a side."""


class VisionTransformer(nn.Module):
    """The map from images N×3×H×W to the class token after the last norm, N×width.

    H and W are multiples of 14.
    """

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + TRAINED_GRID**2, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # in the file, but only for training
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = x.shape[2] // PATCH, x.shape[3] // PATCH
        patches = self.patch_embed(x) + self._positions(rows, columns)
        token = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        return self.norm(self.blocks(torch.cat([token, patches], dim=1)))[:, 0]

    def _positions(self, rows: int, columns: int) -> Tensor:
        """Return the positions of a grid of patches, 1×(rows·columns)×width.

        The 0.1 is part of the published network: it shifts the points of the bicubic filter.
        """
        trained = self.pos_embed[:, 1:]
        if rows == columns == TRAINED_GRID:
            return trained
        grid = trained.unflatten(1, (TRAINED_GRID, TRAINED_GRID)).permute(0, 3, 1, 2)
        scale = ((rows + 0.1) / TRAINED_GRID, (columns + 0.1) / TRAINED_GRID)
        return interpolate(grid, scale_factor=scale, mode="bicubic").flatten(2).mT


class PatchEmbedding(nn.Module):
    """The map from images N×3×H×W to one vector per patch, N×(H/14·W/14)×width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=PATCH, stride=PATCH)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).mT


class Block(nn.Module):
    """The block x + γ₁ attention(norm x), then x + γ₂ perceptron(norm x), on tokens N×T×width."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.ls1 = LayerScale(width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Perceptron(width)
        self.ls2 = LayerScale(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class Attention(nn.Module):
    """Multi-head self-attention over tokens N×T×width."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Perceptron(nn.Module):
    """Two linear layers around a GELU, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class LayerScale(nn.Module):
    """A factor per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma
