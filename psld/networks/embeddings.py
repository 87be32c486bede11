"""Embeddings of the forward time t ∈ (0, 1]: sinusoids of t or Fourier features of log t."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from psld.networks.layers import linear
from psld.networks.settings import EncoderSettings


class PositionalEmbedding(nn.Module):
    """t ↦ (sin ωt, cos ωt) with frequencies ω from 1 down to 1/10000, in `channels` values.

    t is taken as it is, not multiplied by the number of steps as in DDPM: the models of the paper
    were trained so.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels
        half = channels // 2
        decay = torch.arange(half, dtype=torch.float32) * (-math.log(10000) / (half - 1))
        self.register_buffer("frequencies", torch.exp(decay), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        angles = t.float()[:, None] * self.frequencies
        return torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)


class FourierEmbedding(nn.Module):
    """t ↦ (sin 2πw log t, cos 2πw log t) with w ~ N(0, scale²), drawn once and never trained."""

    def __init__(self, channels: int, scale: float):
        super().__init__()
        self.channels = 2 * channels
        self.register_buffer("frequencies", torch.randn(channels) * scale)

    def forward(self, t: Tensor) -> Tensor:
        angles = torch.log(t.float())[:, None] * self.frequencies * (2 * math.pi)
        return torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)


class TimeEmbedding(nn.Module):
    """t, shape (B,), ↦ the vector (B, 4·base_channels) that every residual block receives."""

    def __init__(self, settings: EncoderSettings):
        super().__init__()
        base = settings.base_channels
        self.embedding = (
            FourierEmbedding(base, settings.fourier_scale)
            if settings.embedding == "fourier"
            else PositionalEmbedding(base)
        )
        self.linear1 = linear(self.embedding.channels, 4 * base)
        self.linear2 = linear(4 * base, 4 * base)

    def forward(self, t: Tensor) -> Tensor:
        # The features are float32 at least; the weights may be of another precision.
        features = self.embedding(t).to(self.linear1.weight.dtype)
        return self.linear2(silu(self.linear1(features)))
