"""Parts of a user's own, as files in an empty folder."""

from pathlib import Path
from textwrap import dedent

LAYERS = """
from torch import nn

def conv(i, o):
    return nn.Conv2d(i, o, 3, padding=1)
"""

NETWORK = '''
"""A network of mine."""
import torch
from torch import nn

from psld.parts import Network


class Mixer(Network):
    """Convolutions."""

    width: int = 8
    """Channels."""

    def build(self, in_channels, out_channels, image_size, num_classes):
        return Net(in_channels, out_channels, self.width)


class Net(nn.Module):
    def __init__(self, i, o, w):
        super().__init__()
        from mylayers import conv

        self.a, self.b, self.t = conv(i, w), conv(w, o), nn.Linear(1, w)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, z, t):
        if self.training:
            self.calls += 1
        h = self.a(z) + self.t(t[:, None])[:, :, None, None]
        return self.b(torch.relu(h))
'''


def write(folder: Path, **files: str) -> Path:
    """Write modules into a folder, by name."""
    for name, text in files.items():
        (folder / f"{name}.py").write_text(dedent(text))
    return folder


def with_network(folder: Path) -> Path:
    return write(folder, mynets=NETWORK, mylayers=LAYERS)


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


OBJECTIVES = '''
from psld.parts import Denoiser, Objective


class Absolute(Objective):
    """|ε_θ − ε|^p."""

    power: float = 1.0
    """p."""

    def loss(self, module, batch):
        z, t = batch.noisy()
        return ((module(z, t) - batch.target).abs() ** self.power).mean()


class AbsoluteImage(Denoiser):
    """|D − x₀|."""

    def loss(self, module, batch):
        y, sigma = batch.noisy()
        return (module(y, sigma) - batch.x0).abs().mean()
'''
