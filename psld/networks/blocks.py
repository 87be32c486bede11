"""The building blocks of NCSN++: time embedding, residual block, self-attention."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from psld.networks.layers import add_shortcut, conv1x1, conv3x3, group_norm, linear
from psld.networks.settings import EncoderSettings

NETWORK_IN_NETWORK_SCALE = 0.1  # of the initial weights of the layers that NCSN++ calls NIN


class PositionalEmbedding(nn.Module):
    """t ↦ (sin ωt, cos ωt) with frequencies ω from 1 down to 1/10000, in `channels` values.

    As in the paper's models, t is not multiplied by the number of steps, which DDPM does.
    """

    def __init__(self, channels: int):
        super().__init__()
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
        self.register_buffer("frequencies", torch.randn(channels) * scale)

    def forward(self, t: Tensor) -> Tensor:
        angles = torch.log(t.float())[:, None] * self.frequencies * (2 * math.pi)
        return torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)


class TimeEmbedding(nn.Module):
    """Forward times t ∈ (0, 1], shape (B,) ↦ (B, 4·base_channels), for every residual block."""

    def __init__(self, settings: EncoderSettings):
        super().__init__()
        base = settings.base_channels
        if settings.embedding == "fourier":
            self.embedding, channels = FourierEmbedding(base, settings.fourier_scale), 2 * base
        else:
            self.embedding, channels = PositionalEmbedding(base), base
        self.linear1 = linear(channels, 4 * base)
        self.linear2 = linear(4 * base, 4 * base)

    def forward(self, t: Tensor) -> Tensor:
        # The features are at least float32; the weights may have another precision.
        features = self.embedding(t).to(self.linear1.weight.dtype)
        return self.linear2(silu(self.linear1(features)))


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions, the time embedding between them, plus a shortcut.

    With `resample`, branch and shortcut are both resampled, as in BigGAN.
    """

    def __init__(
        self,
        settings: EncoderSettings,
        in_channels: int,
        out_channels: int,
        resample: nn.Module | None = None,
    ):
        super().__init__()
        self.rescale = settings.skip_rescale
        self.norm1 = group_norm(in_channels)
        self.resample = resample or nn.Identity()
        self.conv1 = conv3x3(in_channels, out_channels)
        self.time = linear(4 * settings.base_channels, out_channels)
        self.norm2 = group_norm(out_channels)
        self.dropout = nn.Dropout(settings.dropout)
        self.conv2 = conv3x3(out_channels, out_channels, settings.init_scale)
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels or resample is not None:
            scale = 1.0 if settings.block == "biggan" else NETWORK_IN_NETWORK_SCALE
            self.shortcut = conv1x1(in_channels, out_channels, scale)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x: B×C×H×W; embedding: B×(4·base_channels), its activation already applied."""
        h, x = self.resample(silu(self.norm1(x))), self.resample(x)
        h = self.conv1(h) + self.time(embedding)[:, :, None, None]
        h = self.dropout(silu(self.norm2(h)))
        return add_shortcut(self.shortcut(x), self.conv2(h), self.rescale)


class Attention(nn.Module):
    """Self-attention over all pixels, with one head, plus a shortcut."""

    def __init__(self, settings: EncoderSettings, channels: int):
        super().__init__()
        self.rescale = settings.skip_rescale
        self.norm = group_norm(channels)
        self.query = linear(channels, channels, NETWORK_IN_NETWORK_SCALE)
        self.key = linear(channels, channels, NETWORK_IN_NETWORK_SCALE)
        self.value = linear(channels, channels, NETWORK_IN_NETWORK_SCALE)
        self.out = linear(channels, channels, settings.init_scale)

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.norm(x).flatten(2).transpose(1, 2)  # B×HW×C
        query, key, value = self.query(pixels), self.key(pixels), self.value(pixels)
        # Fused attention kernels expect B×heads×HW×C.
        mixed = scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])
        branch = self.out(mixed[:, 0]).transpose(1, 2).reshape(x.shape)
        return add_shortcut(x, branch, self.rescale)
