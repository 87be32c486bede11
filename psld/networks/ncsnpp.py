"""NCSN++, the score network of the paper (Song et al., 2021, appendix H)."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from psld.networks.blocks import ResidualBlock
from psld.networks.encoder import Encoder, attention_at, resampled, resampling_layer
from psld.networks.layers import add_shortcut, conv3x3, group_norm
from psld.networks.resampling import upsampling, upsampling_conv
from psld.networks.settings import NetworkSettings
from psld.utils.errors import UserError


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
        return pyramid if self.output is None else self.output(h)


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
            contribution = self.output(h)
            pyramid = contribution if pyramid is None else self.pyramid(pyramid) + contribution
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
