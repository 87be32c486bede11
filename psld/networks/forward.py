"""A network in use: its forward pass and its threads, and the EMA of its weights."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

Precision = Literal["fp32", "bf16"]

WORK_OF_A_THREAD = 1e9
"""Parameters × pixels × images of a network evaluation for which a CPU thread is worth starting."""


def forward_pass(
    network: nn.Module, precision: Precision, *, compile: bool = False, channels_last: bool = False
) -> nn.Module:
    """Return the module to call; it shares its weights with `network`.

    Args:
        channels_last: lay out weights and activations with the channels innermost, which changes
            `network` itself in place.
    """
    if channels_last:
        network = network.to(memory_format=torch.channels_last)
    if precision == "bf16":
        network = InBfloat16(network)
    return torch.compile(network) if compile else network


@contextmanager
def enough_threads(network: nn.Module, images: int, pixels: int) -> Iterator[None]:
    """Let torch use as many CPU threads as an evaluation of the network has work for.

    Threads wait for each other at each layer: for a small network on a busy machine, far longer
    than they compute. `pixels`: of an image.
    """
    before = torch.get_num_threads()
    work = sum(parameter.numel() for parameter in network.parameters()) * pixels * images
    torch.set_num_threads(max(1, min(before, math.ceil(work / WORK_OF_A_THREAD))))
    try:
        yield
    finally:
        torch.set_num_threads(before)


class InBfloat16(nn.Module):
    """A network under autocast; coefficients, states and loss outside of it stay in float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor, *conditions: Tensor | None) -> Tensor:
        with torch.autocast(z.device.type, torch.bfloat16):
            return self.network(z, *conditions)


class EMA:
    """The exponential moving average θ̄ ← d θ̄ + (1 − d) θ after each step.

    There is no bias correction, as in the official code.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._averaged = list(self.network.parameters())

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        torch._foreach_lerp_(self._averaged, list(network.parameters()), 1 - self.decay)
