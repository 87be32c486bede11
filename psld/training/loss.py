"""The training loss: the error of the predicted noise."""

from typing import Literal

from torch import Tensor

from psld.processes.linear import LinearProcess, mix
from psld.samplers.score import Network


class EpsilonLoss:
    """‖ε_θ(z_t, t) − ε‖² with z_t = mean(t) + L(t) ε (paper, Eq. 10), averaged over all elements.

    Only the predicted blocks of ε count: for CLD that is the momentum's half. The process decides
    whether z_t is drawn given x₀ (HSM) or given (x₀, m₀) (DSM).

    With the weighting `nll` it is the error of the score, weighted by the diffusion,
    Σ_blocks (G Gᵀ)_ii (s_θ − s)_i², averaged over images and pixels, as in the likelihood bound.
    """

    def __init__(self, process: LinearProcess, weighting: Literal["fid", "nll"] = "fid") -> None:
        self.process = process
        self.weighting = weighting

    def __call__(
        self,
        network: Network,
        x0: Tensor,
        t: Tensor,
        eps: Tensor,
        auxiliary_eps: Tensor | None = None,
    ) -> Tensor:
        """The mean loss of a batch.

        Args:
            x0: N×C×H×W images in [−1, 1].
            t: N forward times, float64 on the CPU.
            eps: N×kC×H×W standard normal.
            auxiliary_eps: N×(k−1)C×H×W standard normal, needed under DSM.
        """
        z = self.process.perturb(x0, t, eps, auxiliary_eps)
        channels = x0.shape[1]
        predicted = self.process.predicted
        target = eps[:, predicted.start * channels : predicted.stop * channels]
        time = t.to(z.device, z.dtype, non_blocking=True)
        error = network(z, time).to(target.dtype) - target
        if self.weighting == "fid":
            return error.square().mean()
        weight = self.process.diffusion(t) @ self.process.score_matrix(t)
        return self.process.blocks * mix(weight, error).square().mean()
