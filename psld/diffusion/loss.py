"""The training loss of ε-networks, and the noisy inputs: process states or noisy images."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from psld.diffusion.matrices import mix
from psld.diffusion.process import LinearProcess
from psld.diffusion.time_grid import time_of_noise_level


@dataclass(frozen=True)
class Batch:
    """The part of a batch on one rank. All tensors except t are on the device of the rank."""

    x0: Tensor
    """N images, N×C×H×W in [−1, 1]."""
    t: Tensor
    """Times or noise levels (`Noising.levels`), N, float64 on the CPU. When training on a GPU,
    they are in pinned memory."""
    eps: Tensor
    """Standard normal noise, N×kC×H×W."""
    auxiliary_eps: Tensor | None
    """Standard normal noise of the initial auxiliary blocks under DSM, N×(k−1)C×H×W, else None."""
    labels: Tensor | None = None
    """Classes, int64, N; None without classes."""
    noising: Any = None
    """The `Noising` that computes the input of the network."""
    facts: Any = None
    """The facts about the training that its objective uses (`psld.models.objectives.Facts`)."""

    def noisy(self) -> tuple[Tensor, Tensor]:
        """Return the noisy input of the network, N×C'×H×W, and its times or noise levels, N."""
        return self.noising(self)

    @property
    def label(self) -> tuple[Tensor, ...]:
        """The additional arguments of a network: the labels, if any."""
        return () if self.labels is None else (self.labels,)

    @property
    def target(self) -> Tensor:
        """The noise ε in the blocks that a network of process states predicts."""
        return self.target_of(self.facts.process)

    def target_of(self, process: LinearProcess) -> Tensor:
        channels, predicted = self.x0.shape[1], process.predicted
        return self.eps[:, predicted.start * channels : predicted.stop * channels]

    def split(self, size: int) -> Iterator["Batch"]:
        """Yield micro-batches of `size` images."""
        parts = {name: value for name, value in vars(self).items() if value is not None}
        for start in range(0, len(self.x0), size):
            cut = {name: value[start : start + size] for name, value in parts.items()}
            yield replace(self, **cut)


class LogNormal(Protocol):
    """A clipped log-normal distribution of noise levels σ, such as `NoiseLaw` of the settings."""

    @property
    def center(self) -> float: ...
    @property
    def width(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


class NoisyStates:
    """Noising that draws states z_t, N×kC×H×W, of a process at forward times t.

    Without `law`, t is uniform on [time_eps, 1], as in the paper. With `law`, t is drawn such that
    the noise level σ_eff(t) has the distribution `law`; trainings of different processes then use
    the same noise levels.

    For each value of an image, the noising needs `blocks` = k standard normal numbers, and
    `auxiliary` more: k − 1 under DSM, else 0.
    """

    def __init__(
        self, process: LinearProcess, time_eps: float = 1e-5, law: LogNormal | None = None
    ) -> None:
        self.process, self.time_eps, self.law = process, time_eps, law
        self.blocks = process.blocks
        self.auxiliary = process.blocks - 1 if process.needs_auxiliary_noise else 0

    def levels(self, uniform: Tensor) -> Tensor:
        """Return N times, float64, from N uniform numbers."""
        if self.law is None:
            return self.time_eps + (LinearProcess.T - self.time_eps) * uniform
        return time_of_noise_level(self.process, noise_levels(self.law, uniform), self.time_eps)

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the states and their times, both in the type and on the device of the states."""
        z = self.process.perturb(batch.x0, batch.t, batch.eps, batch.auxiliary_eps)
        return z, batch.t.to(z.device, z.dtype, non_blocking=True)


@dataclass(frozen=True)
class NoisyImages:
    """Noising that draws noisy images y = x₀ + σ n, N×C×H×W, for any process."""

    law: LogNormal
    blocks, auxiliary = 1, 0

    def levels(self, uniform: Tensor) -> Tensor:
        return noise_levels(self.law, uniform)

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        sigma = batch.t.to(batch.x0.device, batch.x0.dtype, non_blocking=True)
        return batch.x0 + sigma[:, None, None, None] * batch.eps, sigma


def noise_levels(law: LogNormal, uniform: Tensor) -> Tensor:
    """Return the float64 quantiles σ of a distribution at N float64 numbers in [0, 1)."""
    logarithm = law.center + law.width * torch.special.ndtri(uniform)
    return logarithm.exp().clamp(law.low, law.high)


class Noising(Protocol):
    """The interface of noisings, which compute the noisy input of a network from a batch."""

    blocks: int
    """How many standard normal numbers the noising needs per value of an image."""
    auxiliary: int
    """How many more standard normal numbers DSM needs per value of an image."""

    def levels(self, uniform: Tensor) -> Tensor:
        """Return N times or noise levels, float64, from N uniform numbers."""
        ...

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the noisy input of the network, N×C'×H×W, and its times or noise levels, N."""
        ...


class EpsilonLoss:
    """The mean of (ε_θ(z_t, t) − ε)² over all elements, z_t = mean(t) + L(t) ε (paper, Eq. 10).

    The mean runs over the predicted blocks of ε only: for CLD, the momentum. The process draws z_t
    given x₀ (HSM) or given (x₀, m₀) (DSM). A class-conditional network also receives the labels.

    With the weighting `nll`, the loss is the error of the score weighted by the diffusion,
    (s_θ − s)ᵀ G Gᵀ (s_θ − s), averaged over images and pixels. This is twice the integrand of the
    bound on the likelihood.
    """

    def __init__(
        self,
        process: LinearProcess,
        weighting: Literal["fid", "nll"] = "fid",
        noising: NoisyStates | None = None,
    ) -> None:
        """`noising`: by default `NoisyStates` with uniform times, as in the paper."""
        self.process, self.weighting = process, weighting
        self.noising = noising or NoisyStates(process)

    def __call__(self, network: nn.Module, batch: Batch) -> Tensor:
        z, time = self.noising(batch)
        target = batch.target_of(self.process)
        error = self.process.checked(network(z, time, *batch.label), z) - target
        if self.weighting == "fid":
            return error.square().mean()
        weight = self.process.diffusion(batch.t) @ self.process.score_matrix(batch.t)
        return self.process.blocks * mix(weight, error).square().mean()


LossOf = Callable[[nn.Module, Batch], Tensor]
"""A training loss: a function of a network and a batch that returns a scalar."""
