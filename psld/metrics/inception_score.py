"""The Inception Score, gathered shard by shard like the other statistics."""

import torch
from torch import Tensor

from psld.errors import UserError


class InceptionScoreStatistics:
    """IS = exp E_x KL(p(y|x) ‖ p(y)) from sums alone (Salimans et al. 2016).

    With n, P = Σ p(y|x) and H = Σ_x Σ_y p(y|x) log p(y|x), and q = P/n:

        log IS = H/n − Σ_y q log q

    The score is customarily the mean over ten parts of the samples; part i here takes every tenth
    sample. `logits` are Inception's without the bias, as in torch-fidelity.
    """

    def __init__(
        self, classes: int = 1008, parts: int = 10, device: torch.device | str = "cpu"
    ) -> None:
        self.counts = torch.zeros(parts, dtype=torch.float64)
        self.probabilities = torch.zeros(parts, classes, dtype=torch.float64, device=device)
        self.negentropies = torch.zeros(parts, dtype=torch.float64, device=device)

    def update(self, logits: Tensor) -> None:
        """Add the logits of the next samples, n×classes."""
        logits = logits.detach().to(self.probabilities.device, torch.float64)
        log_p = logits.log_softmax(dim=1)
        p = log_p.exp()
        parts = len(self.counts)
        part = (torch.arange(len(logits)) + int(self.counts.sum())) % parts
        self.counts += torch.bincount(part, minlength=parts)
        part = part.to(p.device)
        self.probabilities.index_add_(0, part, p)
        self.negentropies.index_add_(0, part, (p * log_p).sum(dim=1))

    def merge(self, other: "InceptionScoreStatistics") -> None:
        """Add what `other` has gathered."""
        self.counts += other.counts
        self.probabilities += other.probabilities.to(self.probabilities.device)
        self.negentropies += other.negentropies.to(self.negentropies.device)

    def score(self) -> tuple[float, float]:
        """Mean and standard deviation over the parts. Raises UserError when a part is empty."""
        if self.counts.min() < 1:
            raise UserError(
                f"Inception Score of {int(self.counts.sum())} images: "
                f"at least {len(self.counts)} are needed"
            )
        counts = self.counts.to(self.probabilities.device)
        q = self.probabilities / counts[:, None]
        scores = (self.negentropies / counts - torch.xlogy(q, q).sum(dim=1)).exp()
        return scores.mean().item(), scores.std(correction=0).item()
