"""Custom parts, as files in an empty folder."""

import inspect
import re
from importlib import import_module
from pathlib import Path
from textwrap import dedent

from psld.config.kinds import SHIPPED

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

GUIDANCE = '''
import numpy as np

from psld.parts import Guidance, Mask


class Pull(Guidance):
    """Pulls the mean of each image toward a brightness."""

    brightness: float = 0.5
    """From -1, black, to 1, white."""
    strength: float = 100.0

    def build(self, process, eps, batching, labels, logits):
        from psld.diffusion.score import GuidedScore, NetworkScore

        def gradient(z, t):
            pull, channels = z.new_zeros(z.shape), z.shape[1] // process.blocks
            mean = z[:, :channels].mean(dim=(1, 2, 3), keepdim=True)
            pull[:, :channels] = (self.brightness - mean) / z[0, 0].numel()
            return pull

        return GuidedScore(NetworkScore(eps, batching), gradient, self.strength)


class Border(Mask):
    """The border is known."""

    width: int = 2

    def draw(self, indices, image_size, mnist):
        known = np.ones((len(indices), image_size, image_size))
        known[:, self.width : -self.width, self.width : -self.width] = 0
        return known
'''

HEUN = '''
from psld.diffusion.integrators import EulerMaruyama
from psld.parts import TimeGridSampler


class Heun(TimeGridSampler):
    """Heun's method on the probability-flow ODE."""

    @property
    def grid_steps(self):
        return (self.steps - self.denoise + 1) // 2

    def build(self, process, device, inpainting=None):
        grid = self.time_grid(process)
        return Steps(process, grid, device, self.steps - self.denoise)


class Steps:
    draws = 0
    ode = True

    def __init__(self, process, grid, device, evaluations):
        self.euler = EulerMaruyama(process, grid, device, probability_flow=True)
        back = EulerMaruyama(process, grid.flip(0), device, probability_flow=True)
        self.back, self.evaluations = back, evaluations
        self.times, self.ends = grid[:-1].tolist(), grid[1:].tolist()
        self.replacement_times = self.ends

    def step(self, index, z, score, noise):
        end = self.euler.mean(index, z, score)
        if 2 * index + 2 > self.evaluations:
            return end
        # Euler's step back from the end has the slope there.
        slope = end - self.back.mean(len(self.times) - 1 - index, end, score)
        return z + (end - z + slope) / 2
'''


def moved(folder: Path, noun: str) -> list[str]:
    """Write the classes of all shipped parts into moved.py. Return their kinds."""
    classes = [name.split(":") for name in SHIPPED[noun].values()]
    modules = dict.fromkeys(module for module, _ in classes)
    texts = [f"from {module} import *" for module in modules]
    texts += [inspect.getsource(getattr(import_module(module), name)) for module, name in classes]
    kindless = re.sub(r"    kind: Literal.*\n", "", "\n\n".join(texts))
    (folder / "moved.py").write_text(kindless)
    return [f"moved:{name}" for _, name in classes]


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
from psld.utils.errors import UserError


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

    def check(self, sampler, process):
        if sampler.integrator == "sscs":
            raise UserError("not with sscs")
'''
