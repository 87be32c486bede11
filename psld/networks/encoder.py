"""The part that NCSN++ and its guide share: the way down, and the middle."""

from torch import Tensor, nn

from psld.utils.errors import UserError
from psld.networks.blocks import Attention, ResidualBlock
from psld.networks.embeddings import TimeEmbedding
from psld.networks.layers import Combine, add_shortcut, conv3x3
from psld.networks.resampling import downsampling, downsampling_conv
from psld.networks.settings import EncoderSettings


class Encoder(nn.Module):
    """The levels of decreasing resolution and the middle block of NCSN++.

    Every level halves the image of the one before. Raises UserError when `image_size` cannot be
    halved that often.
    """

    def __init__(self, settings: EncoderSettings, image_size: int, in_channels: int):
        super().__init__()
        _check_fit(settings, image_size)
        self.settings = settings
        self.in_shape = (in_channels, image_size, image_size)
        self.sizes = [image_size >> i for i in range(len(settings.channel_multipliers))]
        self.time = TimeEmbedding(settings)
        self.stem = conv3x3(in_channels, settings.base_channels)
        self.down = nn.ModuleList()
        self.skip_channels = [settings.base_channels]
        pyramid_channels = in_channels
        for i, size in enumerate(self.sizes):
            level = DownLevel(
                settings,
                size,
                in_channels=self.skip_channels[-1],
                out_channels=settings.base_channels * settings.channel_multipliers[i],
                pyramid_channels=pyramid_channels,
                last=size == self.sizes[-1],
            )
            self.down.append(level)
            self.skip_channels += level.skip_channels
            pyramid_channels = level.pyramid_channels
        self.middle = Middle(settings, self.skip_channels[-1])

    def encode(self, x: Tensor, embedding: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The features of the middle, and those that the way up takes back, in order of making.

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
    """The residual blocks of one resolution, and (but in the last level) the step to the next."""

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

        self.resample: nn.Module | None = None
        self.pyramid: nn.Module | None = None
        self.combine: Combine | None = None
        if last:
            return
        self.resample = _downsampling_layer(settings, out_channels)
        if settings.progressive_input == "input_skip":
            concatenate = settings.progressive_combine == "cat"
            self.pyramid = downsampling(settings)
            self.combine = Combine(pyramid_channels, out_channels, concatenate)
            self.skip_channels.append(out_channels * (2 if concatenate else 1))
        else:
            self.skip_channels.append(out_channels)
        if settings.progressive_input == "residual":
            self.pyramid = downsampling_conv(settings, pyramid_channels, out_channels)
            self.pyramid_channels = out_channels

    def forward(self, skips: list[Tensor], pyramid: Tensor, embedding: Tensor) -> Tensor:
        """Append this level's features to `skips`; return the input pyramid at its lower end."""
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
    return (
        Attention(settings, channels) if size in settings.attention_resolutions else nn.Identity()
    )


def resampled(layer: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
    """h at the next resolution: a residual block needs the time embedding, another layer not."""
    return layer(h, embedding) if isinstance(layer, ResidualBlock) else layer(h)


def _downsampling_layer(settings: EncoderSettings, channels: int) -> nn.Module:
    if settings.block == "biggan":
        return ResidualBlock(settings, channels, channels, resample=downsampling(settings))
    if settings.resample_with_conv:
        return downsampling_conv(settings, channels, channels)
    return downsampling(settings)


def _check_fit(settings: EncoderSettings, image_size: int) -> None:
    levels = len(settings.channel_multipliers)
    divisor = 2 ** (levels - 1)
    if image_size % divisor:
        raise UserError(
            f"network.channel_multipliers: {levels} levels halve the image {levels - 1} times, "
            f"so the dataset's image size must be a multiple of {divisor}, not {image_size}"
        )
