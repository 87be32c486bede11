"""Halving and doubling an image, plainly or with a FIR filter, by ordinary convolutions.

The FIR filter is StyleGAN's `upfirdn2d` with the two-dimensional kernel k ⊗ k, applied to each
channel separately. `downsampling` and `upsampling` have no parameters; `downsampling_conv` and
`upsampling_conv` are fused with a 3×3 convolution.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d

from psld.networks.layers import conv3x3, initialized
from psld.networks.settings import EncoderSettings


def downsampling(settings: EncoderSettings) -> nn.Module:
    """B×C×H×W → B×C×H/2×W/2."""
    if settings.resampling == "plain":
        return nn.AvgPool2d(2)
    return FIRFilter(settings.fir_kernel, padding=len(settings.fir_kernel) - 2, stride=2)


def upsampling(settings: EncoderSettings) -> nn.Module:
    """B×C×H×W → B×C×2H×2W."""
    if settings.resampling == "plain":
        return nn.Upsample(scale_factor=2, mode="nearest")
    return FIRUpsampling(settings.fir_kernel)


def downsampling_conv(
    settings: EncoderSettings, in_channels: int, out_channels: int
) -> nn.Sequential:
    """B×in×H×W → B×out×H/2×W/2."""
    before: nn.Module = FIRFilter(settings.fir_kernel, padding=len(settings.fir_kernel))
    if settings.resampling == "plain":
        # As 'SAME' padding in TensorFlow: only the right and lower edges are padded.
        before = nn.ZeroPad2d((0, 1, 0, 1))
    conv = conv3x3(in_channels, out_channels, stride=2, padding=0)
    return nn.Sequential(OrderedDict(before=before, conv=conv))


def upsampling_conv(settings: EncoderSettings, in_channels: int, out_channels: int) -> nn.Module:
    """B×in×H×W → B×out×2H×2W."""
    if settings.resampling == "fir":
        return FIRUpsamplingConv(settings.fir_kernel, in_channels, out_channels)
    conv = conv3x3(in_channels, out_channels)
    return nn.Sequential(OrderedDict(before=upsampling(settings), conv=conv))


def _kernel(taps: Sequence[float]) -> Tensor:
    """The kernel k ⊗ k / (Σk)², shape 1×1×K×K."""
    kernel = torch.tensor(taps, dtype=torch.float32)
    kernel = torch.outer(kernel, kernel)
    return (kernel / kernel.sum())[None, None]


class FIRFilter(nn.Module):
    """Filter each channel with `padding` zeros in all, and keep every `stride`-th value.

    Half of the zeros lie on each side; of an odd number, one more on the left and upper sides.
    """

    def __init__(self, taps: Sequence[float], padding: int, stride: int = 1, gain: float = 1.0):
        super().__init__()
        self.stride = stride
        self.padding = padding
        # The flip turns conv2d, which is a correlation, into a convolution.
        self.register_buffer("kernel", gain * _kernel(taps).flip(2, 3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        lost = self.kernel.shape[-1] - self.padding
        height, width = ((size - lost) // self.stride + 1 for size in x.shape[2:])
        weight = self.kernel.expand(channels, 1, -1, -1)
        left = (self.padding + 1) // 2
        y = conv2d(x, weight, stride=self.stride, padding=left, groups=channels)
        # Cut the excess of an odd padding on the right and lower sides.
        return y[..., :height, :width]


class FIRUpsampling(nn.Module):
    """Put a zero after each value, in both directions, and filter with gain 4."""

    def __init__(self, taps: Sequence[float]):
        super().__init__()
        self.cut = (len(taps) - 2) // 2
        self.register_buffer("kernel", 4 * _kernel(taps), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels, height, width = x.shape[1:]
        weight = self.kernel.expand(channels, 1, -1, -1)
        y = conv_transpose2d(x, weight, stride=2, padding=self.cut, groups=channels)
        # A filter of odd length gives one value more.
        return y[..., : 2 * height, : 2 * width]


class FIRUpsamplingConv(nn.Module):
    """Put a zero after each value, convolve with 3×3 weights, filter with gain 4, add a bias."""

    def __init__(self, taps: Sequence[float], in_channels: int, out_channels: int):
        super().__init__()
        conv = nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2, bias=False)
        self.conv = initialized(conv)
        # The convolution gives 2H + 1 values, so the filter needs K − 2 zeros to give 2H.
        self.filter = FIRFilter(taps, padding=len(taps) - 2, gain=4.0)
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.filter(self.conv(x)) + self.bias[:, None, None]
