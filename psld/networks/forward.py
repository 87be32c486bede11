"""The forward pass of a network: plain, in bfloat16, compiled, or in the channels-last layout."""

from typing import Literal

import torch
from torch import Tensor, nn

Precision = Literal["fp32", "bf16"]


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


class InBfloat16(nn.Module):
    """A network under autocast; coefficients, states and loss outside of it stay in float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor, *conditions: Tensor | None) -> Tensor:
        with torch.autocast(z.device.type, torch.bfloat16):
            return self.network(z, *conditions)
