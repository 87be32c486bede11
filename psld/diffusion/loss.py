"""The training losses, and what a network sees: a process's states, or images with noise."""

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
    """One rank's part of a batch, on its device; only the times stay on the CPU.

    N images `x0`, N×C×H×W in [−1, 1], and their times `t` (`NoisyStates.levels`), float64; standard
    normal `eps`, N×kC×H×W, and, under DSM, `auxiliary_eps`, N×(k−1)C×H×W; `labels`, int64, if
    classes are used.
    """

    x0: Tensor
    t: Tensor
    eps: Tensor
    auxiliary_eps: Tensor | None
    labels: Tensor | None = None
    noising: Any = None
    """What the network sees of the images: a `Noising`."""
    facts: Any = None
    """What a training's objective may depend on (`psld.models.objectives.Facts`)."""

    def noisy(self) -> tuple[Tensor, Tensor]:
        """Return what the network sees, N×C'×H×W, and its times or noise levels, N."""
        return self.noising(self)

    @property
    def label(self) -> tuple[Tensor, ...]:
        """The further arguments of a network: the labels, if classes are used."""
        return () if self.labels is None else (self.labels,)

    @property
    def target(self) -> Tensor:
        """The noise ε in the blocks that a network of the process's states predicts."""
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
    """A log-normal law of noise levels σ, clipped; `psld.diffusion.settings.NoiseLaw` is one."""

    @property
    def center(self) -> float: ...
    @property
    def width(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


class NoisyStates:
    """States z_t, N×kC×H×W, of a process at forward times t.

    Without a law t is uniform on [time_eps, 1], as in the paper. With one, t is the time at which
    the noise level σ_eff(t) has that law, so trainings of several processes see the same noise.

    `blocks`, k, is how many standard normal numbers each value of an image gets; `auxiliary` is how
    many more, k − 1 under DSM, else 0.
    """

    def __init__(
        self, process: LinearProcess, time_eps: float = 1e-5, law: LogNormal | None = None
    ) -> None:
        self.process, self.time_eps, self.law = process, time_eps, law
        self.blocks = process.blocks
        self.auxiliary = process.blocks - 1 if process.needs_auxiliary_noise else 0

    def levels(self, uniform: Tensor) -> Tensor:
        """Return the times of N uniform numbers, float64."""
        if self.law is None:
            return self.time_eps + (LinearProcess.T - self.time_eps) * uniform
        return time_of_noise_level(self.process, noise_levels(self.law, uniform), self.time_eps)

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the states and their times in the states' type, both on the batch's device."""
        z = self.process.perturb(batch.x0, batch.t, batch.eps, batch.auxiliary_eps)
        return z, batch.t.to(z.device, z.dtype, non_blocking=True)


@dataclass(frozen=True)
class NoisyImages:
    """Images with noise, y = x₀ + σ n, N×C×H×W: what every process knows of its image."""

    law: LogNormal
    blocks, auxiliary = 1, 0

    def levels(self, uniform: Tensor) -> Tensor:
        return noise_levels(self.law, uniform)

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        sigma = batch.t.to(batch.x0.device, batch.x0.dtype, non_blocking=True)
        return batch.x0 + sigma[:, None, None, None] * batch.eps, sigma


def noise_levels(law: LogNormal, uniform: Tensor) -> Tensor:
    """Return the quantiles of a law, σ, N, float64, for N numbers on [0, 1), float64."""
    logarithm = law.center + law.width * torch.special.ndtri(uniform)
    return logarithm.exp().clamp(law.low, law.high)


class Noising(Protocol):
    """What a network sees of an image."""

    blocks: int
    auxiliary: int

    def levels(self, uniform: Tensor) -> Tensor:
        """Return the times or noise levels of N uniform numbers, float64."""
        ...

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return what the network sees, N×C'×H×W, and its times or noise levels, N."""
        ...


class EpsilonLoss:
    """The loss ‖ε_θ(z_t, t) − ε‖², z_t = mean(t) + L(t) ε (paper, Eq. 10), as a mean of elements.

    Only the predicted blocks of ε count: for CLD, the momentum's half. The process draws z_t given
    x₀ (HSM) or given (x₀, m₀) (DSM). A class-conditional network also receives the labels.

    The weighting `nll` gives the error of the score weighted by the diffusion,
    (s_θ − s)ᵀ G Gᵀ (s_θ − s), averaged over images and pixels: twice the integrand of the bound on
    the likelihood.
    """

    def __init__(
        self,
        process: LinearProcess,
        weighting: Literal["fid", "nll"] = "fid",
        noising: NoisyStates | None = None,
    ) -> None:
        """`noising`: the paper's by default, with uniform times."""
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
"""What a training minimizes: from a network and a batch to a scalar."""
