"""NCSN++, the score network of the paper (Song et al., 2021, appendix H), and its guide."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from psld.networks.layers import (
    Attention,
    Combine,
    ResidualBlock,
    TimeEmbedding,
    add_shortcut,
    conv3x3,
    downsampling,
    downsampling_conv,
    group_norm,
    upsampling,
    upsampling_conv,
)
from psld.utils.errors import UserError

if TYPE_CHECKING:
    from psld.networks.settings import EncoderSettings, GuideSettings, NetworkSettings


class Encoder(nn.Module):
    """The part that NCSN++ and its guide share: the levels on the way down, and the middle.

    Each level halves the image of the one before.

    `image_size` must be divisible by 2^(levels − 1), as the settings of a training check.
    """

    def __init__(self, settings: EncoderSettings, image_size: int, in_channels: int):
        super().__init__()
        self.settings = settings
        self.in_shape = (in_channels, image_size, image_size)
        self.in_bfloat16 = settings.in_bfloat16
        self.takes_logarithm = settings.takes_logarithm
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
        pyramid = x.to(self.stem.weight.dtype)
        skips = [self.stem(pyramid)]
        for level in self.down:
            pyramid = level(skips, pyramid, embedding)
        return self.middle(skips[-1], embedding), skips


class NCSNpp(Encoder):
    """ε(x, t): B×in×H×W → B×out×H×W, a U-Net whose blocks receive the time.

        network = NCSNpp(settings, image_size=32, in_channels=6, out_channels=6)
        noise = network(x, t)  # t: forward times in (0, 1], shape (B,)

    With `num_classes` > 0 the network also takes a class. One more class, the last, means "no
    class", so that one network serves with and without classes (classifier-free guidance).
    """

    def __init__(
        self,
        settings: NetworkSettings,
        image_size: int,
        in_channels: int,
        out_channels: int,
        num_classes: int = 0,
    ):
        super().__init__(settings, image_size, in_channels)
        self.num_classes = num_classes
        self.class_embedding: nn.Embedding | None = None
        if num_classes:
            self.class_embedding = nn.Embedding(num_classes + 1, 4 * settings.base_channels)
        self.up = nn.ModuleList()
        skip_channels = list(self.skip_channels)
        channels = skip_channels[-1]
        levels = list(zip(self.sizes, settings.channel_multipliers, strict=True))
        for size, multiplier in reversed(levels):
            level = UpLevel(
                settings,
                size,
                in_channels=channels,
                out_channels=settings.base_channels * multiplier,
                skip_channels=[skip_channels.pop() for _ in range(settings.blocks_per_level + 1)],
                image_channels=out_channels,
                first=size == self.sizes[-1],
                last=size == image_size,
            )
            self.up.append(level)
            channels = settings.base_channels * multiplier
        self.output: nn.Sequential | None = None
        if settings.progressive_output != "output_skip":
            self.output = output_layers(channels, out_channels, settings.init_scale)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """x: B×in×H×W; t: forward times, shape (B,); label: classes, shape (B,), int64.

        The label `num_classes` means "no class", which is also the default for all images.
        """
        embedding = self.time(t)
        if self.class_embedding is not None:
            no_class = self.class_embedding.weight[self.num_classes]
            embedding = embedding + (no_class if label is None else self.class_embedding(label))
        elif label is not None:
            raise UserError("the network has no classes (num_classes is 0): leave out label")
        embedding = silu(embedding)
        h, skips = self.encode(x, embedding)
        pyramid = None
        for level in self.up:
            h, pyramid = level(h, skips, pyramid, embedding)
        return cast(Tensor, pyramid) if self.output is None else self.output(h)


class NCSNppGuide(Encoder):
    """Class logits of a noisy image: B×in×H×W → B×num_classes.

    The levels and the middle of NCSN++, then one linear layer without bias over all features of
    all pixels.

        logits = NCSNppGuide(settings, 32, in_channels=6, num_classes=10)(x, t)
    """

    def __init__(
        self, settings: GuideSettings, image_size: int, in_channels: int, num_classes: int
    ):
        super().__init__(settings, image_size, in_channels)
        features = self.skip_channels[-1] * self.sizes[-1] ** 2
        self.head = nn.Linear(features, num_classes, bias=False)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x: B×in×H×W; t: forward times in (0, 1], shape (B,)."""
        h, _ = self.encode(x, silu(self.time(t)))
        return self.head(h.flatten(1))


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


class UpLevel(nn.Module):
    """The residual blocks of one resolution, each with one skip, and the step to the next."""

    def __init__(
        self,
        settings: NetworkSettings,
        size: int,
        in_channels: int,
        out_channels: int,
        skip_channels: list[int],
        image_channels: int,
        first: bool,
        last: bool,
    ):
        super().__init__()
        self.rescale = settings.skip_rescale
        self.blocks = nn.ModuleList()
        for i, skip in enumerate(skip_channels):
            block_in = out_channels if i else in_channels
            self.blocks.append(ResidualBlock(settings, block_in + skip, out_channels))
        self.attention = attention_at(settings, size, out_channels)

        self.output = self.pyramid = self.resample = None
        match settings.progressive_output:
            case "output_skip":
                self.output = output_layers(out_channels, image_channels, settings.init_scale)
                self.pyramid = None if first else upsampling(settings)
            case "residual" if first:
                self.output = output_layers(out_channels, out_channels)
            case "residual":
                self.pyramid = upsampling_conv(settings, in_channels, out_channels)
        if not last:
            self.resample = resampling_layer(settings, out_channels, upsampling, upsampling_conv)

    def forward(
        self, h: Tensor, skips: list[Tensor], pyramid: Tensor | None, embedding: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Take this level's features from the end of `skips`; return features and pyramid."""
        for block in self.blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), embedding)
        h = self.attention(h)
        if self.output is not None:
            part = self.output(h)
            pyramid = part if pyramid is None else cast(nn.Module, self.pyramid)(pyramid) + part
        elif self.pyramid is not None:
            h = pyramid = add_shortcut(self.pyramid(pyramid), h, self.rescale)
        if self.resample is not None:
            h = resampled(self.resample, h, embedding)
        return h, pyramid


def output_layers(in_channels: int, out_channels: int, scale: float = 1.0) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            norm=group_norm(in_channels),
            activation=nn.SiLU(),
            conv=conv3x3(in_channels, out_channels, scale),
        )
    )


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
