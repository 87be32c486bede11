"""The two blocks of NCSN++: residual with the time embedding, and self-attention."""

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from psld.networks.layers import add_shortcut, conv1x1, conv3x3, group_norm, linear
from psld.networks.settings import EncoderSettings

NETWORK_IN_NETWORK_SCALE = 0.1  # of the initial weights of the layers that NCSN++ calls NIN


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with the time embedding between them, beside a shortcut.

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
        self.resample = resample
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
        h = silu(self.norm1(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.conv1(h) + self.time(embedding)[:, :, None, None]
        h = self.dropout(silu(self.norm2(h)))
        return add_shortcut(self.shortcut(x), self.conv2(h), self.rescale)


class Attention(nn.Module):
    """Self-attention with one head over all pixels, beside a shortcut."""

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
