"""NCSN++, the score network of the paper (Song et al., 2021, appendix H), and its guide."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, scaled_dot_product_attention, silu

from psld.utils.errors import UserError
from psld.utils.numbers import Size

if TYPE_CHECKING:
    from psld.networks.options import EncoderOptions, Options

NETWORK_IN_NETWORK_SCALE = 0.1
"""Scale of the initial weights of the layers that the official code calls NIN."""

Layer = TypeVar("Layer", nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


class Encoder(nn.Module):
    """The encoder that NCSN++ and its guide share: the downsampling levels and the middle.

    Each level after the first halves the image, so `image_size` must be divisible by
    2^(levels − 1); the settings of a training check this.
    """

    def __init__(self, settings: EncoderOptions, image_size: Size, in_channels: int):
        super().__init__()
        self.settings = settings
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.in_shape = (in_channels, height, width)
        self.in_bfloat16 = settings.in_bfloat16
        self.takes_logarithm = settings.takes_logarithm
        self.time = TimeEmbedding(settings)
        self.stem = conv3x3(in_channels, settings.base_channels)
        self.down = nn.ModuleList()
        self.skip_channels = [settings.base_channels]
        pyramid_channels = in_channels
        for i in range(len(settings.channels)):
            channels = self.skip_channels[-1]
            level = DownLevel(settings, i, height >> i, channels, pyramid_channels)
            self.down.append(level)
            self.skip_channels += level.skip_channels
            pyramid_channels = level.pyramid_channels
        self.middle = Middle(settings, self.skip_channels[-1])

    def encode(self, x: Tensor, embedding: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the features of the middle, and the skips of all levels from first to last.

        Args:
            x: images, B×C×H×W.
            embedding: time embedding after its activation, B×(4·base_channels).
        """
        if x.shape[1:] != self.in_shape:
            raise UserError(
                f"the network accepts images of {self.in_shape}, not {tuple(x.shape[1:])}"
            )
        pyramid = x.to(self.stem.weight.dtype)
        skips = [self.stem(pyramid)]
        for level in self.down:
            pyramid = level(skips, pyramid, embedding)
        return self.middle(skips[-1], embedding), skips


class NCSNpp(Encoder):
    """The noise prediction ε(x, t), B×in×H×W → B×out×H×W: a U-Net conditioned on time.

        network = NCSNpp(settings, image_size=32, in_channels=6, out_channels=6)
        noise = network(x, t)  # t: forward times in (0, 1], shape (B,)

    With `num_classes` > 0 the network is also conditioned on a class. The additional label
    `num_classes` means "no class"; classifier-free guidance needs this label.
    """

    def __init__(
        self,
        settings: Options,
        image_size: Size,
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
        for i in reversed(range(len(settings.channels))):
            taken = [skip_channels.pop() for _ in range(settings.blocks_per_level + 1)]
            height = self.in_shape[1] >> i
            self.up.append(UpLevel(settings, i, height, channels, taken, out_channels))
            channels = settings.channels[i]
        self.output: nn.Sequential | None = None
        if settings.progressive_output != "output_skip":
            self.output = output_layers(channels, out_channels, settings.init_scale)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Predict the noise.

        Args:
            x: noisy images, B×in×H×W.
            t: forward times in (0, 1], shape (B,).
            label: classes, int64, shape (B,). `num_classes` means "no class"; this is also the
                default.
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
    """Class logits of noisy images, B×in×H×W → B×num_classes.

    The encoder of NCSN++ is followed by one linear layer without bias over the features of all
    pixels.

        logits = NCSNppGuide(settings, 32, in_channels=6, num_classes=10)(x, t)
    """

    def __init__(
        self, settings: EncoderOptions, image_size: Size, in_channels: int, num_classes: int
    ):
        super().__init__(settings, image_size, in_channels)
        _, height, width = self.in_shape
        halvings = len(self.down) - 1
        features = self.skip_channels[-1] * (height >> halvings) * (width >> halvings)
        self.head = nn.Linear(features, num_classes, bias=False)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the logits of images x, B×in×H×W, at forward times t in (0, 1], shape (B,)."""
        h, _ = self.encode(x, silu(self.time(t)))
        return self.head(h.flatten(1))


class DownLevel(nn.Module):
    """The residual blocks of level `index`, followed by downsampling except at the last level."""

    def __init__(
        self,
        settings: EncoderOptions,
        index: int,
        size: int,
        in_channels: int,
        pyramid_channels: int,
    ):
        super().__init__()
        out_channels = settings.channels[index]
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
        if index == len(settings.channels) - 1:
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
        """Append the features of this level to `skips`; return the pyramid for the next level."""
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

    def __init__(self, settings: EncoderOptions, channels: int):
        super().__init__()
        self.block1 = ResidualBlock(settings, channels, channels)
        self.attention = Attention(settings, channels)
        self.block2 = ResidualBlock(settings, channels, channels)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        return self.block2(self.attention(self.block1(h, embedding)), embedding)


class UpLevel(nn.Module):
    """The residual blocks of level `index`, each with a skip, and upsampling except at level 0."""

    def __init__(
        self,
        settings: Options,
        index: int,
        size: int,
        in_channels: int,
        skip_channels: list[int],
        image_channels: int,
    ):
        super().__init__()
        out_channels, is_lowest = settings.channels[index], index == len(settings.channels) - 1
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
                self.pyramid = None if is_lowest else upsampling(settings)
            case "residual" if is_lowest:
                self.output = output_layers(out_channels, out_channels)
            case "residual":
                self.pyramid = upsampling_conv(settings, in_channels, out_channels)
        if index:
            self.resample = resampling_layer(settings, out_channels, upsampling, upsampling_conv)

    def forward(
        self, h: Tensor, skips: list[Tensor], pyramid: Tensor | None, embedding: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Pop the features of this level from `skips`; return new features and output pyramid."""
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
    norm, conv = group_norm(in_channels), conv3x3(in_channels, out_channels, scale)
    return nn.Sequential(OrderedDict(norm=norm, activation=nn.SiLU(), conv=conv))


def attention_at(settings: EncoderOptions, size: int, channels: int) -> nn.Module:
    with_attention = size in settings.attention_resolutions
    return Attention(settings, channels) if with_attention else nn.Identity()


def resampling_layer(
    settings: EncoderOptions,
    channels: int,
    plain: Callable[[EncoderOptions], nn.Module],
    with_conv: Callable[[EncoderOptions, int, int], nn.Module],
) -> nn.Module:
    """Return the layer between two levels: a resampling residual block, or a separate layer."""
    if settings.block == "biggan":
        return ResidualBlock(settings, channels, channels, resample=plain(settings))
    if settings.resample_with_conv:
        return with_conv(settings, channels, channels)
    return plain(settings)


def resampled(layer: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
    """Apply a resampling layer; only residual blocks accept the time embedding."""
    return layer(h, embedding) if isinstance(layer, ResidualBlock) else layer(h)


# -- layers ---------------------------------------------------------------------------------------


def conv3x3(
    in_channels: int, out_channels: int, scale: float = 1.0, stride: int = 1, padding: int = 1
) -> nn.Conv2d:
    return initialized(nn.Conv2d(in_channels, out_channels, 3, stride, padding), scale)


def linear(in_features: int, out_features: int, scale: float = 1.0) -> nn.Linear:
    return initialized(nn.Linear(in_features, out_features), scale)


def initialized(layer: Layer, scale: float = 1.0) -> Layer:
    """Draw weights from U(−a, a) with a² = 3·scale / mean(fan in, fan out); set the bias to 0.

    Scale 0 means 1e-10, so that a branch that ends in this layer initially adds almost nothing.
    """
    nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(scale or 1e-10))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def group_norm(channels: int) -> nn.GroupNorm:
    """Return a group normalization with at least 4 channels per group and at most 32 groups.

    Raises UserError if the channels cannot be divided into groups of equal size.
    """
    groups = min(channels // 4, 32)
    if channels % groups:
        raise UserError(
            f"network: base_channels and channel_multipliers give a layer of {channels} channels, "
            f"which cannot be normalized in {groups} groups; use a base_channels divisible by 32"
        )
    return nn.GroupNorm(groups, channels, eps=1e-6)


def add_shortcut(shortcut: Tensor, branch: Tensor, rescale: bool) -> Tensor:
    """Return shortcut + branch, divided by √2 if `rescale`, so that the variance does not grow."""
    total = shortcut + branch
    return total * math.sqrt(0.5) if rescale else total


# -- downsampling and upsampling ------------------------------------------------------------------
#
# The FIR filter is the `upfirdn2d` of StyleGAN with the two-dimensional kernel k ⊗ k, implemented
# with depthwise convolutions.


def downsampling(settings: EncoderOptions) -> nn.Module:
    """Return a layer B×C×H×W → B×C×H/2×W/2."""
    if settings.resampling == "plain":
        return nn.AvgPool2d(2)
    return FIRFilter(settings.fir_kernel, padding=len(settings.fir_kernel) - 2, stride=2)


def upsampling(settings: EncoderOptions) -> nn.Module:
    """Return a layer B×C×H×W → B×C×2H×2W."""
    if settings.resampling == "plain":
        return nn.Upsample(scale_factor=2, mode="nearest")
    return FIRUpsampling(settings.fir_kernel)


def downsampling_conv(
    settings: EncoderOptions, in_channels: int, out_channels: int
) -> nn.Sequential:
    """Return layers B×in×H×W → B×out×H/2×W/2."""
    before: nn.Module = FIRFilter(settings.fir_kernel, padding=len(settings.fir_kernel))
    if settings.resampling == "plain":
        # Pad only the right and lower edges, as TensorFlow's 'SAME' padding does.
        before = nn.ZeroPad2d((0, 1, 0, 1))
    conv = conv3x3(in_channels, out_channels, stride=2, padding=0)
    return nn.Sequential(OrderedDict(before=before, conv=conv))


def upsampling_conv(settings: EncoderOptions, in_channels: int, out_channels: int) -> nn.Module:
    """Return layers B×in×H×W → B×out×2H×2W."""
    if settings.resampling == "fir":
        return FIRUpsamplingConv(settings.fir_kernel, in_channels, out_channels)
    conv = conv3x3(in_channels, out_channels)
    return nn.Sequential(OrderedDict(before=upsampling(settings), conv=conv))


def _kernel(taps: Sequence[float]) -> Tensor:
    """Return the kernel k ⊗ k / (Σk)², shape 1×1×K×K."""
    kernel = torch.tensor(taps, dtype=torch.float32)
    kernel = torch.outer(kernel, kernel)
    return (kernel / kernel.sum())[None, None]


class FIRFilter(nn.Module):
    """Filter each channel, with zero padding, and keep every `stride`-th value.

    `padding` is the total number of zeros per dimension, half on each side. If `padding` is odd,
    the left and upper sides get one zero more than the right and lower sides.
    """

    def __init__(self, taps: Sequence[float], padding: int, stride: int = 1, gain: float = 1.0):
        super().__init__()
        self.stride = stride
        self.padding = padding
        # The flip turns conv2d, which is a correlation, into a convolution.
        self.kernel = nn.Buffer(gain * _kernel(taps).flip(2, 3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        lost = self.kernel.shape[-1] - self.padding
        height, width = ((size - lost) // self.stride + 1 for size in x.shape[2:])
        weight = self.kernel.to(x.dtype).expand(channels, 1, -1, -1)
        left = (self.padding + 1) // 2
        y = conv2d(x, weight, stride=self.stride, padding=left, groups=channels)
        # conv2d pads all sides equally. With an odd `padding`, cut the excess row and column.
        return y[..., :height, :width]


class FIRUpsampling(nn.Module):
    """Insert a zero after each value in both dimensions, and filter with gain 4."""

    def __init__(self, taps: Sequence[float]):
        super().__init__()
        self.cut = (len(taps) - 2) // 2
        self.kernel = nn.Buffer(4 * _kernel(taps), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels, height, width = x.shape[1:]
        weight = self.kernel.to(x.dtype).expand(channels, 1, -1, -1)
        y = conv_transpose2d(x, weight, stride=2, padding=self.cut, groups=channels)
        # Cut the additional row and column that a filter of odd length returns.
        return y[..., : 2 * height, : 2 * width]


class FIRUpsamplingConv(nn.Module):
    """Insert a zero after each value, convolve with 3×3 weights, filter with gain 4, add a bias."""

    def __init__(self, taps: Sequence[float], in_channels: int, out_channels: int):
        super().__init__()
        conv = nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2, bias=False)
        self.conv = initialized(conv)
        # The convolution returns 2H + 1 rows, so the filter needs K − 2 zeros to return 2H rows.
        self.filter = FIRFilter(taps, padding=len(taps) - 2, gain=4.0)
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.filter(self.conv(x)) + self.bias[:, None, None]


# -- blocks ---------------------------------------------------------------------------------------


class PositionalEmbedding(nn.Module):
    """t ↦ (sin ωt, cos ωt) with `channels`/2 frequencies ω from 1 down to 1/10000.

    As in the models of the paper, and unlike in DDPM, t is not multiplied by the number of steps.
    """

    def __init__(self, channels: int):
        super().__init__()
        half = channels // 2
        decay = torch.arange(half, dtype=torch.float32) * (-math.log(10000) / (half - 1))
        self.frequencies = nn.Buffer(torch.exp(decay), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        angles = t.float()[:, None] * self.frequencies
        return torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)


class FourierEmbedding(nn.Module):
    """t ↦ (sin 2πw log t, cos 2πw log t) with frequencies w ~ N(0, scale²) that are not trained."""

    def __init__(self, channels: int, scale: float):
        super().__init__()
        self.frequencies = nn.Buffer(torch.randn(channels) * scale)

    def forward(self, t: Tensor) -> Tensor:
        angles = torch.log(t.float())[:, None] * self.frequencies * (2 * math.pi)
        return torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)


class TimeEmbedding(nn.Module):
    """Embeds forward times in (0, 1] for the residual blocks: (B,) → (B, 4·base_channels)."""

    def __init__(self, settings: EncoderOptions):
        super().__init__()
        base = settings.base_channels
        if settings.embedding == "fourier":
            self.embedding, channels = FourierEmbedding(base, settings.fourier_scale), 2 * base
        else:
            self.embedding, channels = PositionalEmbedding(base), base
        self.linear1 = linear(channels, 4 * base)
        self.linear2 = linear(4 * base, 4 * base)

    def forward(self, t: Tensor) -> Tensor:
        # Cast the features, which have at least float32 precision, to the dtype of the weights.
        features = self.embedding(t).to(self.linear1.weight.dtype)
        return self.linear2(silu(self.linear1(features)))


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions, with the time embedding added between them, and a shortcut.

    `resample` is applied to both the branch and the shortcut, as in BigGAN.
    """

    def __init__(
        self,
        settings: EncoderOptions,
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
            self.shortcut = initialized(nn.Conv2d(in_channels, out_channels, 1), scale)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """`x`: B×C×H×W; `embedding`: time embedding after its activation, B×(4·base_channels)."""
        h, x = self.resample(silu(self.norm1(x))), self.resample(x)
        h = self.conv1(h) + self.time(embedding)[:, :, None, None]
        h = self.dropout(silu(self.norm2(h)))
        return add_shortcut(self.shortcut(x), self.conv2(h), self.rescale)


class Attention(nn.Module):
    """Single-head self-attention over all pixels, and a shortcut."""

    def __init__(self, settings: EncoderOptions, channels: int):
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
        # Insert one head, because fused attention kernels expect B×heads×HW×C.
        mixed = scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])
        branch = self.out(mixed[:, 0]).transpose(1, 2).reshape(x.shape)
        return add_shortcut(x, branch, self.rescale)


class Combine(nn.Module):
    """Apply a 1×1 convolution to the input pyramid, and combine it with the features of a level."""

    def __init__(self, pyramid_channels: int, channels: int, concatenate: bool):
        super().__init__()
        self.conv = initialized(nn.Conv2d(pyramid_channels, channels, 1))
        self.concatenate = concatenate

    def forward(self, pyramid: Tensor, h: Tensor) -> Tensor:
        joined = self.conv(pyramid)
        return torch.cat([joined, h], dim=1) if self.concatenate else joined + h
