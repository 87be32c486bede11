"""The part that NCSN++ and its guide share: the levels of decreasing resolution and the middle."""

from collections.abc import Callable

from torch import Tensor, nn

from psld.networks.blocks import Attention, ResidualBlock, TimeEmbedding
from psld.networks.layers import Combine, add_shortcut, conv3x3
from psld.networks.resampling import downsampling, downsampling_conv
from psld.networks.settings import EncoderSettings
from psld.utils.errors import UserError


class Encoder(nn.Module):
    """The levels and the middle block; each level halves the image of the one before.

    `image_size` must be divisible by 2^(levels − 1), as the settings of a training check.
    """

    def __init__(self, settings: EncoderSettings, image_size: int, in_channels: int):
        super().__init__()
        self.settings = settings
        self.in_shape = (in_channels, image_size, image_size)
        self.sizes = [image_size >> i for i in range(len(settings.channel_multipliers))]
        self.time = TimeEmbedding(settings)
        self.stem = conv3x3(in_channels, settings.base_channels)
        self.down = nn.ModuleList()
        self.skip_channels = [settings.base_channels]
        pyramid_channels = in_channels
        for size, multiplier in zip(self.sizes, settings.channel_multipliers, strict=True):
            level = DownLevel(
                settings,
                size,
                in_channels=self.skip_channels[-1],
                out_channels=settings.base_channels * multiplier,
                pyramid_channels=pyramid_channels,
                last=size == self.sizes[-1],
            )
            self.down.append(level)
            self.skip_channels += level.skip_channels
            pyramid_channels = level.pyramid_channels
        self.middle = Middle(settings, self.skip_channels[-1])

    def encode(self, x: Tensor, embedding: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the features of the middle, and the skips of all levels, first to last.

        x: B×C×H×W; embedding: B×(4·base_channels), its activation already applied.
        """
        if x.shape[1:] != self.in_shape:
            raise UserError(
                f"the network was made for images of shape {self.in_shape}, "
                f"not {tuple(x.shape[1:])}"
            )
        skips = [self.stem(x)]
        pyramid = x
        for level in self.down:
            pyramid = level(skips, pyramid, embedding)
        return self.middle(skips[-1], embedding), skips


class DownLevel(nn.Module):
    """The residual blocks of one resolution, and the step to the next, if there is one."""

    def __init__(
        self,
        settings: EncoderSettings,
        size: int,
        in_channels: int,
        out_channels: int,
        pyramid_channels: int,
        last: bool,
    ):
        super().__init__()
        self.rescale = settings.skip_rescale
        self.blocks = nn.ModuleList()
        self.attentions = nn.ModuleList()
        for i in range(settings.blocks_per_level):
            block_in = out_channels if i else in_channels
            self.blocks.append(ResidualBlock(settings, block_in, out_channels))
            self.attentions.append(attention_at(settings, size, out_channels))
        self.skip_channels = [out_channels] * settings.blocks_per_level
        self.pyramid_channels = pyramid_channels

        self.resample = self.pyramid = self.combine = None
        if last:
            return
        self.resample = resampling_layer(settings, out_channels, downsampling, downsampling_conv)
        self.skip_channels.append(out_channels)
        if settings.progressive_input == "input_skip":
            concatenate = settings.progressive_combine == "cat"
            self.pyramid = downsampling(settings)
            self.combine = Combine(pyramid_channels, out_channels, concatenate)
            self.skip_channels[-1] *= 2 if concatenate else 1
        elif settings.progressive_input == "residual":
            self.pyramid = downsampling_conv(settings, pyramid_channels, out_channels)
            self.pyramid_channels = out_channels

    def forward(self, skips: list[Tensor], pyramid: Tensor, embedding: Tensor) -> Tensor:
        """Append this level's features to `skips`; return the input pyramid for the next level."""
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            skips.append(attention(block(skips[-1], embedding)))
        if self.resample is None:
            return pyramid
        h = resampled(self.resample, skips[-1], embedding)
        if self.pyramid is not None:
            pyramid = self.pyramid(pyramid)
            if self.combine is not None:
                h = self.combine(pyramid, h)
            else:
                h = pyramid = add_shortcut(pyramid, h, self.rescale)
        skips.append(h)
        return pyramid


class Middle(nn.Module):
    """Residual block, attention, residual block at the lowest resolution."""

    def __init__(self, settings: EncoderSettings, channels: int):
        super().__init__()
        self.block1 = ResidualBlock(settings, channels, channels)
        self.attention = Attention(settings, channels)
        self.block2 = ResidualBlock(settings, channels, channels)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        return self.block2(self.attention(self.block1(h, embedding)), embedding)


def attention_at(settings: EncoderSettings, size: int, channels: int) -> nn.Module:
    with_attention = size in settings.attention_resolutions
    return Attention(settings, channels) if with_attention else nn.Identity()


def resampling_layer(
    settings: EncoderSettings,
    channels: int,
    plain: Callable[[EncoderSettings], nn.Module],
    with_conv: Callable[[EncoderSettings, int, int], nn.Module],
) -> nn.Module:
    """Return the step between two levels: a residual block that resamples, or a separate layer."""
    if settings.block == "biggan":
        return ResidualBlock(settings, channels, channels, resample=plain(settings))
    if settings.resample_with_conv:
        return with_conv(settings, channels, channels)
    return plain(settings)


def resampled(layer: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
    """Apply a resampling layer; only a residual block takes the time embedding."""
    return layer(h, embedding) if isinstance(layer, ResidualBlock) else layer(h)
