"""Custom parts, in a file outside of the package."""

import copy
import time
from pathlib import Path

import torch
from torch import nn

from psld.parts import Average, Logger, Network, Optimizer, Schedule


class Counting(Network):
    """A network with buffers that change in training and affect the output."""

    width: int = 8

    def build(self, in_channels, out_channels, image_size, num_classes):
        return Net(in_channels, out_channels, self.width)


class Net(nn.Module):
    def __init__(self, channels, out, width):
        super().__init__()
        self.first, self.norm = nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width)
        self.last = nn.Conv2d(width, out, 3, padding=1)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, z, t):
        if self.training:
            self.scale.lerp_(z.detach().square().mean().sqrt(), 0.1)
        return self.last(self.norm(self.first(z / self.scale)).relu() + t[:, None, None, None])


class Odd(Optimizer):
    """Momentum with a state of integers, None, texts, lists, infinity and bfloat16."""

    decay: float = 0.9

    def build(self, parameters):
        return OddOptimizer(parameters, {"lr": 1.0, "decay": self.decay, "calls": 0})


class OddOptimizer(torch.optim.Optimizer):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["calls"] += 1
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    half = torch.zeros_like(p, dtype=torch.bfloat16)
                    state.update(count=0, large=torch.tensor(2**24 + 1), half=half, text="a")
                    state.update(nothing=None, inner={"x": [0.1, (True, float("inf"))]})
                    state["inner"]["quarter"] = [half[:0].to(torch.int8)]
                state["count"] += 1
                state["large"] += 1
                state["inner"]["x"][0] += 0.1
                state["half"].mul_(group["decay"]).add_(p.grad.to(torch.bfloat16))
                odd = state["count"] % 3 + float(state["large"] % 2) + group["calls"] % 2
                rate = group["lr"] * (1 + odd) * state["inner"]["x"][0] / 10
                p.sub_(rate * state["half"].float().sign())


class Plain(Optimizer):
    """Gradient descent, which has no state."""

    def build(self, parameters):
        return torch.optim.SGD(parameters)


class Halves(Schedule):
    """Halve the rate after every `every` steps."""

    every: int = 7

    def factor(self, step, steps):
        return 0.5 ** (step // self.every)


class Polyak(Average):
    """The mean of the weights over all steps."""

    def build(self, network):
        return Mean(network)


class Mean(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = copy.deepcopy(network)
        self.register_buffer("count", torch.tensor(0))

    def update(self, network):
        self.count += 1
        for mean, new in zip(self.network.parameters(), network.parameters(), strict=True):
            mean.lerp_(new, 1 / self.count.item())
        for mean, new in zip(self.network.buffers(), network.buffers(), strict=True):
            mean.copy_(new)


class Lines(Logger):
    """Write one line into a file for each entry."""

    file: str = "log.txt"

    def start(self, run, settings, from_step):
        def log(entry):
            with Path(self.file).open("a") as file:
                file.write(f"{settings.name} {from_step} {entry and entry['step']}\n")

        return log


class Fails(Logger):
    """A logger that raises an error or hangs, at its start or later."""

    at: str = "entry"
    hangs: bool = False

    def start(self, run, settings, from_step):
        def log(entry):
            if self.at == ("entry" if entry else "end"):
                self.fail()

        if self.at == "start":
            self.fail()
        return log

    def fail(self):
        if self.hangs:
            time.sleep(3600)
        raise KeyError("of a logger")
