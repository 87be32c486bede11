"""The forward pass of a network, its CPU threads, EDM's preconditioning, and the EMA of weights."""

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
Compile = bool | Literal["reduce-overhead"]

WORK_OF_A_THREAD = 1e9
"""The work that justifies one CPU thread. Work is parameters × pixels × images of an evaluation."""


def check_network(network: nn.Module, name: str = "network") -> None:
    """Raise UserError if a network is in training mode, in which its output is random."""
    parts = set(network.modules())
    # Ignore the graph modules of torch.export, which are always in training mode.
    parts -= {one for graph in parts if isinstance(graph, GraphModule) for one in graph.modules()}
    if any(one.training and not list(one.children()) for one in parts):
        raise UserError(
            f"the {name} is in training mode, in which dropout and batch norm change its output; "
            "call its eval() first"
        )


def forward_pass(
    network: nn.Module, precision: Precision, *, compile: Compile = False
) -> nn.Module:
    """Return the module to call, which shares its weights with `network`.

    In bf16, a network with `in_bfloat16` is wrapped in `InBfloat16`, and other networks run under
    autocast.

    With `compile`, one graph is compiled for each batch size, and convolutions use the
    channels-last layout, which suits the tensor cores of a GPU. Without `compile`, the layout stays
    channels-first, because the norms of torch return this layout: with another layout, each norm
    would cost two copies.

    With `compile="reduce-overhead"`, the kernels are also recorded as CUDA graphs, each of which
    needs one launch. The next step overwrites the outputs and gradients of a graph.
    """
    if precision == "bf16":
        in_bfloat16 = getattr(network, "in_bfloat16", False)
        network = InBfloat16(network) if in_bfloat16 else UnderAutocast(network)
    if not compile:
        return network
    # Compile the casts to bfloat16, too: a CUDA graph needs weights that stay in the same memory.
    # Force channels-last, because torch keeps channels-first in the compiled training of a U-Net.
    options: dict[str, Any] = {"force_layout_optimization": True}
    if compile == "reduce-overhead":
        options["triton.cudagraphs"] = True
    compiled: Any = torch.compile(network, dynamic=False, options=options)
    return compiled


class Around(nn.Module):
    """Base class of modules that wrap a network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


class PixelMean(Around):
    """Returns logits, N×classes. Logits per pixel are averaged over the pixels."""

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        logits = self.network(z, t)
        return logits.mean(dim=(2, 3)) if logits.ndim == 4 else logits


@contextmanager
def enough_threads(
    network: nn.Module, images: int, pixels: int, least: float = WORK_OF_A_THREAD
) -> Iterator[None]:
    """Limit the CPU threads of torch to the number that the work of a network evaluation justifies.

    Threads wait for each other at each layer. For a small network on a busy machine, they would
    wait far longer than they compute.

    Args:
        images: images per evaluation.
        pixels: pixels per image.
        least: the work that justifies one thread, as in `WORK_OF_A_THREAD`.
    """
    before = torch.get_num_threads()
    work = sum(parameter.numel() for parameter in network.parameters()) * pixels * images
    torch.set_num_threads(max(1, min(before, math.ceil(work / least))))
    try:
        yield
    finally:
        torch.set_num_threads(before)


class UnderAutocast(Around):
    """Runs a network under bfloat16 autocast; everything outside of the network stays float32."""

    def forward(self, z: Tensor, *conditions: Tensor | None) -> Tensor:
        with torch.autocast(z.device.type, torch.bfloat16):
            return self.network(z, *conditions)


class InBfloat16(Around):
    """Runs a network with bfloat16 copies of its float32 weights and with bfloat16 activations.

    Under autocast, norms on a GPU return float32 and a separate kernel casts each weight, which
    moves more bytes and doubles the number of kernel launches. Here, norms accumulate statistics in
    float32 but accept and return bfloat16, and `Cast` casts many weights in one kernel.
    """

    TOGETHER = 32
    """Number of weights that are cast together. Because of this limit, ranks can exchange the first
    gradients while the other gradients are being computed (unless the network is compiled)."""

    def forward(self, *inputs: Tensor | None) -> Tensor:
        names, weights = zip(*self.network.named_parameters(), strict=True)
        halves: list[Tensor] = []
        for start in range(0, len(weights), self.TOGETHER):
            halves += Cast.apply(torch.bfloat16, *weights[start : start + self.TOGETHER])
        half = dict(zip(names, halves, strict=True))
        return functional_call(self.network, half, inputs, tie_weights=False)


class Cast(torch.autograd.Function):
    """Casts tensors to another dtype; the backward pass casts the gradients back."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.dtype = tensors[0].dtype
        return in_type(dtype, tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *in_type(ctx.dtype, gradients)


def in_type(dtype: torch.dtype, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Copy tensors to another dtype, in one kernel on a GPU."""
    copies = tuple(torch.empty_like(tensor, dtype=dtype) for tensor in tensors)
    _foreach_copy_(copies, tensors)
    return copies


class EMA:
    """The exponential moving average θ̄ ← d θ̄ + (1 − d) θ after each step.

    There is no bias correction, as in the official code. Buffers are copied from the last step.
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

    where s is the standard deviation of the training images around their mean. The input and the
    target of F then have approximately unit variance at every σ.

    EDM-style samplers use `sigma_min`, `sigma_max` (the range of training noise levels) and
    `round_sigma`.
    """

    deviation: Tensor

    def __init__(
        self,
        network: nn.Module,
        deviation: float,
        sigma_min: float,
        sigma_max: float,
    ) -> None:
        """`network`: a network built by `psld.models.build`."""
        super().__init__()
        self.network, self.sigma_min, self.sigma_max = network, sigma_min, sigma_max
        self.register_buffer("deviation", torch.tensor(deviation, dtype=torch.float32))
        self.in_shape, self.in_bfloat16 = network.in_shape, network.in_bfloat16
        self.of_logarithm = network.takes_logarithm

    def round_sigma(self, sigma: float | Tensor) -> Tensor:
        """Return σ unchanged, because the network accepts any σ."""
        return torch.as_tensor(sigma)

    def forward(self, y: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        """Predict the clean images.

        Args:
            y: noisy images, N×C×H×W.
            sigma: one noise level, or N noise levels.
            label: as in `NCSNpp.forward`.
        """
        sigma = torch.as_tensor(sigma, dtype=y.dtype, device=y.device).expand(y.shape[0])
        c_noise = sigma.log() / 4
        total = sigma.square() + self.deviation.square()
        sigma, total = sigma[:, None, None, None], total[:, None, None, None]
        time = c_noise.exp() if self.of_logarithm else c_noise
        given = () if label is None else (label,)
        # Convert the inputs, because EDM-style samplers keep y in float64.
        out = self.network((y * total.rsqrt()).to(self.deviation), time.to(self.deviation), *given)
        if out.shape != y.shape:  # Otherwise, torch would broadcast a single channel.
            raise UserError(f"network: returns {tuple(out.shape)} for images of {tuple(y.shape)}")
        out = out.to(y.dtype)
        return self.deviation.square() / total * y + sigma * self.deviation * total.rsqrt() * out
