"""The exponential moving average of a network's weights."""

import copy

import torch
from torch import nn


class EMA:
    """θ̄ ← d θ̄ + (1 − d) θ after each step, without bias correction, as the official code does."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._averaged = list(self.network.parameters())

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        torch._foreach_lerp_(self._averaged, list(network.parameters()), 1 - self.decay)
