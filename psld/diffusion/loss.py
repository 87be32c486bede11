"""The training losses: a model's error in the noise, and a guide's cross-entropy."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from psld.diffusion.matrices import mix
from psld.diffusion.process import LinearProcess


@dataclass(frozen=True)
class Batch:
    """One rank's part of a batch, on its device; only the times stay on the CPU.

    N images `x0`, N×C×H×W in [−1, 1], and their times `t`, float64; standard normal `eps`,
    N×kC×H×W, and, under DSM, `auxiliary_eps`, N×(k−1)C×H×W; `labels`, int64, if classes are used.
    """

    x0: Tensor
    t: Tensor
    eps: Tensor
    auxiliary_eps: Tensor | None
    labels: Tensor | None = None

    def split(self, size: int) -> Iterator["Batch"]:
        """Yield micro-batches of `size` images."""
        parts = {name: value for name, value in vars(self).items() if value is not None}
        for start in range(0, len(self.x0), size):
            cut = {name: value[start : start + size] for name, value in parts.items()}
            yield replace(self, **cut)


class Objective(Protocol):
    """A loss that a training minimizes."""

    def __call__(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of a batch, a scalar."""
        ...


class EpsilonLoss:
    """The loss ‖ε_θ(z_t, t) − ε‖², z_t = mean(t) + L(t) ε (paper, Eq. 10), as a mean of elements.

    Only the predicted blocks of ε count: for CLD, the momentum's half. The process draws z_t given
    x₀ (HSM) or given (x₀, m₀) (DSM). A class-conditional network also receives the labels.

    The weighting `nll` gives the error of the score weighted by the diffusion,
    (s_θ − s)ᵀ G Gᵀ (s_θ − s), averaged over images and pixels: twice the integrand of the bound on
    the likelihood.
    """

    def __init__(self, process: LinearProcess, weighting: Literal["fid", "nll"] = "fid") -> None:
        self.process = process
        self.weighting = weighting

    def __call__(self, network: nn.Module, batch: Batch) -> Tensor:
        z, time = noised(self.process, batch)
        channels = batch.x0.shape[1]
        predicted = self.process.predicted
        target = batch.eps[:, predicted.start * channels : predicted.stop * channels]
        label = () if batch.labels is None else (batch.labels,)
        error = self.process.checked(network(z, time, *label), z) - target
        if self.weighting == "fid":
            return error.square().mean()
        weight = self.process.diffusion(batch.t) @ self.process.score_matrix(batch.t)
        return self.process.blocks * mix(weight, error).square().mean()


class GuideLoss:
    """The mean of −log p(y | z_t, t) over images: cross-entropy at the process's noise levels."""

    def __init__(self, process: LinearProcess) -> None:
        self.process = process

    def __call__(self, network: nn.Module, batch: Batch) -> Tensor:
        return cross_entropy(network(*noised(self.process, batch)).float(), batch.labels)


def noised(process: LinearProcess, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return z_t, N×kC×H×W, and the times in the type of z_t, both on the batch's device."""
    z = process.perturb(batch.x0, batch.t, batch.eps, batch.auxiliary_eps)
    return z, batch.t.to(z.device, z.dtype, non_blocking=True)
