"""A custom network: `psld check mynet:Plain`, `psld train network=mynet:Plain …`."""

import torch
from torch import nn

from psld.parts import Network


class Plain(Network):
    """A chain of convolutions."""

    width: int = 32
    """Number of channels."""

    depth: int = 3
    """Number of convolutions between the first and the last."""

    def build(self, in_channels, out_channels, image_size, num_classes):
        return Net(in_channels, out_channels, self.width, self.depth)


class Net(nn.Module):
    def __init__(self, in_channels, out_channels, width, depth):
        super().__init__()
        self.first = nn.Conv2d(in_channels + 1, width, 3, padding=1)
        self.middle = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
        self.last = nn.Conv2d(width, out_channels, 3, padding=1)

    def forward(self, z, t):
        level = t[:, None, None, None].expand_as(z[:, :1])  # the noise level, as one more channel
        hidden = self.first(torch.cat([z, level], dim=1))
        for convolution in self.middle:
            hidden = hidden + convolution(nn.functional.silu(hidden))
        return self.last(hidden)
