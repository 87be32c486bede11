"""The likelihood of images under the probability flow, in bits per dimension."""

import math
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from pydantic import ConfigDict, Field, PositiveInt, validate_call
from torch import Tensor

from psld.diffusion.integrators import Noise, integrate
from psld.diffusion.matrices import mix
from psld.diffusion.process import LinearProcess
from psld.diffusion.score import Network, at_time, batching
from psld.utils.batching import Batching
from psld.utils.errors import UserError
from psld.utils.numbers import Tolerance
from psld.utils.progress import Progress


@dataclass(frozen=True)
class Likelihood:
    """The log-likelihoods of a batch of images, and the number of network evaluations.

    Each network evaluation also computes `probes` gradients.
    """

    log_likelihood: Tensor
    """log p(x) of each image, or a lower bound on log p(x), in nats, float64, N."""
    evaluations: int
    """Number of network evaluations per state, that is, per image and draw of the momentum."""


@validate_call(config=ConfigDict(arbitrary_types_allowed=True))
@torch.inference_mode(False)  # Leave inference mode, in which autograd does not work.
def log_likelihood(
    process: LinearProcess,
    network: Network,
    images: Tensor,
    noise: Noise,
    *,
    probes: PositiveInt = 1,
    draws: PositiveInt = 1,
    start_time: Annotated[float, Field(gt=0, lt=1)] = 1e-5,
    tolerance: Tolerance = 1e-5,
    batch_size: PositiveInt | Batching = 256,
) -> Likelihood:
    """Return the log-likelihood of images under the probability-flow ODE, solved from ε to T:

        log p(x, m) = log N(z_T; 0, S) + ∫_ε^T tr ∂_z(F z − ½ G Gᵀ s) dt,   z_ε = (x, m), m ~ q,

    with q = N(0, Σ₀) the distribution of the auxiliary blocks. Hutchinson's method estimates the
    trace. With K draws of m, the result is the lower bound log (1/K) Σ_k p(x, m_k)/q(m_k). The
    expectation of this bound is below log p(x) and increases with K. For k = 1 there is no m: the
    result estimates log p(x) itself, and K has no effect.

    The bound is the logarithm of a mean of exponentials. Therefore, errors of the trace that differ
    between the draws of an image would raise the result above the bound. To avoid this, all draws
    of an image share their probes. Check that more `probes` do not change the result.

    All images share the step size, so the result of an image depends slightly, by about
    `tolerance`, on the other images.

    Args:
        images: N×C×H×W; the network receives states in the type of the images.
        noise: draws the signs of the probes, and the momenta.
        probes: number of random vectors for the trace. 2^⌈log₂ k⌉ vectors form a group. They differ
            only by sign flips of complete blocks, so terms between blocks cancel in their mean. Use
            a multiple of the group size: otherwise these terms dominate the error.
        draws: K, the number of draws of m per image.
        start_time: ε. Starting at ε instead of 0 changes the estimate of an image by about
            ε β x·m/(κM). This error averages to 0.
        tolerance: relative and absolute error tolerance of `integrators.integrate`.
        batch_size: largest number of states (images × draws) per network evaluation; it affects
            only the memory.

    Raises:
        UserError: an auxiliary block has an initial variance of 0, or the network computes in half
            precision.
        ValidationError: a number is outside its range.
    """
    if not process.initial_covariance.diagonal()[1:].all():
        raise UserError(
            "likelihood: process.initial_variance is 0 in an auxiliary block, which then has no "
            "density; the variance must be positive"
        )
    if process.blocks == 1:
        draws = 1
    z = images.repeat_interleave(draws, dim=0)
    log_q = torch.zeros(len(z), dtype=torch.float64)
    if process.blocks > 1:
        auxiliary = noise(z.repeat(1, process.blocks - 1, 1, 1))
        spread = process.initial_covariance[1:, 1:].sqrt()
        log_q = _log_normal(auxiliary, spread)
        z = torch.cat([z, mix(spread, auxiliary)], dim=1)
    signs = [
        probe.repeat_interleave(draws, dim=0)
        for probe in _probes(process.blocks, z[::draws], noise, probes)
    ]
    batched, evaluations = batching(batch_size), 0
    progress = Progress("likelihood", "evaluation")

    def slope(t: float, y: Tensor) -> Tensor:
        nonlocal evaluations
        evaluations += 1
        progress.note = f"t = {t:.3g}"
        progress.update()
        state = y[:, :-1].reshape(z.shape).to(z.dtype).to(z.device)
        return batched(partial(_velocity, process, network, t), state, *signs)

    start = torch.cat([z.flatten(1), z.new_zeros(len(z), 1)], dim=1)
    with closing(progress):
        y = integrate(slope, start_time, process.T, start, tolerance, "likelihood")
    end, gained = y[:, :-1].reshape(z.shape).to(z.dtype), y[:, -1]
    prior = process.prior_covariance.sqrt()
    whitened = mix(torch.linalg.inv(prior), end)
    ratio = _log_normal(whitened, prior) + gained - log_q
    return Likelihood(
        log_likelihood=ratio.view(-1, draws).logsumexp(dim=1) - math.log(draws),
        evaluations=evaluations,
    )


def dequantize(images: Tensor, uniform: Tensor) -> Tensor:
    """Return 2 (u + U)/256 − 1 for uint8 images u and uniform noise U in [0, 1) of equal shape."""
    return 2 * (images + uniform) / 256 - 1


def bits_per_dimension(log_likelihood: Tensor, dimensions: int) -> Tensor:
    """Return −log₂ p per dimension, with p the density per gray level of images from `dequantize`.

    Args:
        log_likelihood: log p in nats, for images on [−1, 1].
        dimensions: C·H·W.
    """
    # Add 7 bits: 256 gray levels on an interval of length 2 are 2⁷ levels per unit.
    return -log_likelihood / (dimensions * math.log(2)) + 7


@torch.enable_grad()
def _velocity(
    process: LinearProcess, network: Network, t: float, z: Tensor, *probes: Tensor
) -> Tensor:
    """Return F z − ½ G Gᵀ s and, in the last column, its divergence, N×(kCHW + 1)."""
    z, drift = z.detach().requires_grad_(), process.drift(t)[0]
    push = -0.5 * process.diffusion_squared(t) @ process.score_matrix(t)
    eps = at_time(network, t)(z)
    if eps.dtype in (torch.bfloat16, torch.float16):
        raise UserError(
            "likelihood: the network computes in half precision, whose rounding error exceeds the "
            "tolerance of adaptive steps; use fp32"
        )
    pushed = mix(push[0], process.checked(eps, z))
    traces = []
    for probe in probes:
        more = probe is not probes[-1]
        (product,) = torch.autograd.grad((pushed * probe).sum(), z, retain_graph=more)
        traces.append((product * probe).flatten(1).sum(dim=1))
    pixels = z[0].numel() // process.blocks
    divergence = torch.stack(traces).mean(dim=0) + float(drift.trace()) * pixels
    velocity = (mix(drift, z) + pushed).detach().flatten(1)
    return torch.cat([velocity, divergence[:, None]], dim=1)


def _probes(blocks: int, z: Tensor, noise: Noise, count: int) -> list[Tensor]:
    """Draw `count` tensors of random signs in the shape of z.

    Within a group, probe j flips the signs of block b if j & b has an odd number of set bits.
    """
    group = 1 << (blocks - 1).bit_length()
    probes, signs = [], z
    for j in range(count):
        if j % group == 0:
            signs = torch.where(noise(z) < 0, -1.0, 1.0).to(z)
        flips = [(-1.0) ** ((j % group) & b).bit_count() for b in range(blocks)]
        probes.append(mix(torch.diag(torch.tensor(flips)), signs))
    return probes


def _log_normal(whitened: Tensor, factor: Tensor) -> Tensor:
    """Return log N(z; 0, L Lᵀ) per sample from L⁻¹ z and the block matrix L, float64 on the CPU."""
    squares = whitened.double().flatten(1).square().sum(dim=1).cpu()
    size = whitened[0].numel()
    log_scale = size / len(factor) * float(torch.linalg.slogdet(factor)[1])
    return -0.5 * squares - log_scale - 0.5 * size * math.log(2 * math.pi)
