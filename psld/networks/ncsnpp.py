"""NCSN++, the score network of the paper (Song et al., 2021, appendix H)."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from psld.utils.errors import UserError
from psld.networks.blocks import ResidualBlock
from psld.networks.encoder import Encoder, attention_at, resampled
from psld.networks.layers import add_shortcut, conv3x3, group_norm
from psld.networks.resampling import upsampling, upsampling_conv
from psld.networks.settings import NetworkSettings


class NCSNpp(Encoder):
    """ε(x, t): B×in×H×W → B×out×H×W, a U-Net whose blocks are told the time.

        network = NCSNpp(settings, image_size=32, in_channels=6, out_channels=6)
        noise = network(x, t)  # t: forward times in (0, 1], shape (B,)

    With `num_classes` > 0 the network is told a class as well; one further class, the last, stands
    for "no class", so that one network serves with and without (classifier-free guidance).
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
        self.class_embedding = (
            nn.Embedding(num_classes + 1, 4 * settings.base_channels) if num_classes else None
        )
        self.up = nn.ModuleList()
        skip_channels = list(self.skip_channels)
        channels = skip_channels[-1]
        pyramid_channels = 0
        for size, multiplier in zip(
            reversed(self.sizes), reversed(settings.channel_multipliers), strict=True
        ):
            level = UpLevel(
                settings,
                size,
                in_channels=channels,
                out_channels=settings.base_channels * multiplier,
                skip_channels=[skip_channels.pop() for _ in range(settings.blocks_per_level + 1)],
                pyramid_channels=pyramid_channels,
                image_channels=out_channels,
                last=size == image_size,
            )
            self.up.append(level)
            channels = settings.base_channels * multiplier
            pyramid_channels = channels
        self.output = (
            None
            if settings.progressive_output == "output_skip"
            else output_layers(channels, out_channels, settings.init_scale)
        )

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """x: B×in×H×W; t: forward times, shape (B,); label: classes, shape (B,), int64.

        Without `label` no image has a class; the label `num_classes` says so for one image.
        """
        embedding = silu(self._embed(t, label))
        h, skips = self.encode(x, embedding)
        pyramid = None
        for level in self.up:
            h, pyramid = level(h, skips, pyramid, embedding)
        return pyramid if self.output is None else self.output(h)

    def _embed(self, t: Tensor, label: Tensor | None) -> Tensor:
        embedding = self.time(t)
        if self.class_embedding is None:
            if label is not None:
                raise UserError("the network knows no classes (num_classes is 0): leave out label")
            return embedding
        no_class = self.class_embedding.weight[self.num_classes]
        return embedding + (no_class if label is None else self.class_embedding(label))


class UpLevel(nn.Module):
    """The residual blocks of one resolution, each with one skip, and the step to the next."""

    def __init__(
        self,
        settings: NetworkSettings,
        size: int,
        in_channels: int,
        out_channels: int,
        skip_channels: list[int],
        pyramid_channels: int,
        image_channels: int,
        last: bool,
    ):
        super().__init__()
        self.rescale = settings.skip_rescale
        self.blocks = nn.ModuleList()
        for i, skip in enumerate(skip_channels):
            block_in = out_channels if i else in_channels
            self.blocks.append(ResidualBlock(settings, block_in + skip, out_channels))
        self.attention = attention_at(settings, size, out_channels)

        first = pyramid_channels == 0
        self.progressive_output = settings.progressive_output
        self.output: nn.Sequential | None = None
        self.pyramid: nn.Module | None = None
        match settings.progressive_output:
            case "output_skip":
                self.output = output_layers(out_channels, image_channels, settings.init_scale)
                self.pyramid = None if first else upsampling(settings)
            case "residual" if first:
                self.output = output_layers(out_channels, out_channels)
            case "residual":
                self.pyramid = upsampling_conv(settings, pyramid_channels, out_channels)
        self.resample = None if last else _upsampling_layer(settings, out_channels)

    def forward(
        self, h: Tensor, skips: list[Tensor], pyramid: Tensor | None, embedding: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Take this level's features from the end of `skips`; return features and pyramid."""
        for block in self.blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), embedding)
        h = self.attention(h)
        if self.output is not None:
            contribution = self.output(h)
            pyramid = contribution if pyramid is None else self.pyramid(pyramid) + contribution
        elif self.pyramid is not None:
            h = pyramid = add_shortcut(self.pyramid(pyramid), h, self.rescale)
        if self.resample is not None:
            h = resampled(self.resample, h, embedding)
        return h, pyramid


def output_layers(in_channels: int, out_channels: int, scale: float = 1.0) -> nn.Sequential:
    """Normalisation, activation, 3×3 convolution."""
    return nn.Sequential(
        OrderedDict(
            norm=group_norm(in_channels),
            activation=nn.SiLU(),
            conv=conv3x3(in_channels, out_channels, scale),
        )
    )


def _upsampling_layer(settings: NetworkSettings, channels: int) -> nn.Module:
    if settings.block == "biggan":
        return ResidualBlock(settings, channels, channels, resample=upsampling(settings))
    if settings.resample_with_conv:
        return upsampling_conv(settings, channels, channels)
    return upsampling(settings)
