"""A network in use: its forward pass and threads, EDM's preconditioning, the EMA of its weights."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, _foreach_copy_, _foreach_lerp_, nn  # pyright: ignore[reportPrivateImportUsage]
from torch.func import functional_call
from torch.fx import GraphModule

from psld.utils.errors import UserError

Precision = Literal["fp32", "bf16"]

WORK_OF_A_THREAD = 1e9
"""Parameters × pixels × images of a network evaluation for which a CPU thread is worth starting."""


def check_network(network: nn.Module, name: str = "network") -> None:
    """Raise UserError if a network is in training mode, in which its output varies."""
    parts = set(network.modules())
    # An exported network is in training mode, whatever it was exported from.
    parts -= {one for graph in parts if isinstance(graph, GraphModule) for one in graph.modules()}
    if any(one.training and not list(one.children()) for one in parts):
        raise UserError(
            f"the {name} is in training mode, where dropout and batch norm change what it gives; "
            "call its eval() first"
        )


def forward_pass(network: nn.Module, precision: Precision, *, compile: bool = False) -> nn.Module:
    """Return the module to call; it shares its weights with `network`.

    In bf16, networks whose part says so compute as `InBfloat16` says, others under autocast.

    A compiled network has a graph for each number of images, and its convolutions have the channels
    innermost, which suits the units of a GPU that multiply matrices. Not so without compiling:
    there torch's norms give the channels outermost, so each would need two copies.
    """
    in_bfloat16 = getattr(network, "in_bfloat16", False)
    if compile:
        # By itself, torch leaves the channels outermost in the training of a U-Net.
        innermost: dict[str, Any] = {"force_layout_optimization": True}
        compiled: Any = torch.compile(network, dynamic=False, options=innermost)
        network = compiled
    if precision == "fp32":
        return network
    return InBfloat16(network) if in_bfloat16 else UnderAutocast(network)


class Around(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


class PixelMean(Around):
    """Logits N×classes of a network; logits of each pixel are averaged over the pixels."""

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        logits = self.network(z, t)
        return logits.mean(dim=(2, 3)) if logits.ndim == 4 else logits


@contextmanager
def enough_threads(
    network: nn.Module, images: int, pixels: int, least: float = WORK_OF_A_THREAD
) -> Iterator[None]:
    """Let torch use as many CPU threads as an evaluation of the network has work for.

    Threads wait for each other at each layer: for a small network on a busy machine, far longer
    than they compute. `pixels`: of an image. `least`: the work of one thread.
    """
    before = torch.get_num_threads()
    work = sum(parameter.numel() for parameter in network.parameters()) * pixels * images
    torch.set_num_threads(max(1, min(before, math.ceil(work / least))))
    try:
        yield
    finally:
        torch.set_num_threads(before)


class UnderAutocast(Around):
    """A network under autocast; coefficients, states and loss outside of it stay in float32."""

    def forward(self, z: Tensor, *conditions: Tensor | None) -> Tensor:
        with torch.autocast(z.device.type, torch.bfloat16):
            return self.network(z, *conditions)


class InBfloat16(Around):
    """A network whose weights and activations are bfloat16; its own weights stay float32.

    Under autocast, norms on a GPU would return float32, and each weight would be cast by a kernel
    of its own: more bytes for the GPU, and twice as many launches for its host. Here norms sum
    their statistics in float32, but take and return bfloat16; `Cast` takes many weights at once.
    """

    TOGETHER = 32
    """Weights that are cast at once. Ranks exchange the gradients of some while the others are
    computed (unless the network is compiled), so not all together."""

    def forward(self, *inputs: Tensor | None) -> Tensor:
        names, weights = zip(*self.network.named_parameters(), strict=True)
        halves: list[Tensor] = []
        for start in range(0, len(weights), self.TOGETHER):
            halves += Cast.apply(torch.bfloat16, *weights[start : start + self.TOGETHER])
        half = dict(zip(names, halves, strict=True))
        return functional_call(self.network, half, inputs, tie_weights=False)


class Cast(torch.autograd.Function):
    """Copies of tensors in another type; the backward pass casts their gradients back."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.dtype = tensors[0].dtype
        return in_type(dtype, tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *in_type(ctx.dtype, gradients)


def in_type(dtype: torch.dtype, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return copies of tensors in another type; a GPU makes them in one kernel."""
    copies = tuple(torch.empty_like(tensor, dtype=dtype) for tensor in tensors)
    _foreach_copy_(copies, tensors)
    return copies


class EMA:
    """The exponential moving average θ̄ ← d θ̄ + (1 − d) θ after each step.

    There is no bias correction, as in the official code. Buffers are those of the last step.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._averaged: list[Tensor] = [*self.network.parameters()]
        self._buffers = list(self.network.buffers())

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        _foreach_lerp_(self._averaged, [*network.parameters()], 1 - self.decay)
        if self._buffers:
            _foreach_copy_(self._buffers, list(network.buffers()))


class Denoiser(nn.Module):
    """A network F in EDM's preconditioning (Karras et al., 2022, Table 1 and Eq. 7):

        D(y; σ) = c_skip y + c_out F(c_in y; c_noise),      c_noise = ln σ / 4,

        c_skip = s² / (σ² + s²),   c_out = σ s / √(σ² + s²),   c_in = 1 / √(σ² + s²),

    with s the deviation of the training images around their mean. F's input and target then have
    about unit variance at every σ.

    `sigma_min`, `sigma_max` (the levels of the training) and `round_sigma` are for samplers in the
    manner of EDM.
    """

    deviation: Tensor

    def __init__(
        self,
        network: nn.Module,
        deviation: float,
        sigma_min: float,
        sigma_max: float,
    ) -> None:
        """`network` is one that `build` has made."""
        super().__init__()
        self.network, self.sigma_min, self.sigma_max = network, sigma_min, sigma_max
        self.register_buffer("deviation", torch.tensor(deviation, dtype=torch.float32))
        self.in_shape, self.in_bfloat16 = network.in_shape, network.in_bfloat16
        self.of_logarithm = network.takes_logarithm

    def round_sigma(self, sigma: float | Tensor) -> Tensor:
        """Return σ as it is: the network takes any."""
        return torch.as_tensor(sigma)

    def forward(self, y: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        """Predict the images, N×C×H×W, from y of that shape and their noise levels, one or N.

        `label` is as in `NCSNpp`.
        """
        sigma = torch.as_tensor(sigma, dtype=y.dtype, device=y.device).expand(y.shape[0])
        c_noise = sigma.log() / 4
        total = sigma.square() + self.deviation.square()
        sigma, total = sigma[:, None, None, None], total[:, None, None, None]
        time = c_noise.exp() if self.of_logarithm else c_noise
        given = () if label is None else (label,)
        # Samplers in the manner of EDM keep y in float64.
        out = self.network((y * total.rsqrt()).to(self.deviation), time.to(self.deviation), *given)
        if out.shape != y.shape:  # torch would broadcast one channel to all.
            raise UserError(f"network: gives {tuple(out.shape)} for images of {tuple(y.shape)}")
        out = out.to(y.dtype)
        return self.deviation.square() / total * y + sigma * self.deviation * total.rsqrt() * out
