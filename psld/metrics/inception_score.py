"""The Inception Score: a classifier's certainty per sample, and the diversity of classes."""

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from psld.metrics.blocks import BLOCKS
from psld.metrics.estimate import Estimate
from psld.metrics.features import blocks_of_samples, estimate_of
from psld.utils.errors import UserError

SEED = 2020
"""torch-fidelity's seed: equal logits give its splits."""


def inception_score(logits: Tensor, splits: int = 10, blocks: int = BLOCKS) -> Estimate:
    """Return exp(mean_i KL(p(y|x_i) ‖ p(y))), averaged over random splits (Salimans et al. 2016).

    Args:
        logits: n×classes.
        splits: disjoint parts of the samples, each with its own p(y).

    The value is that of `torch_fidelity.calculate_metrics`, with its order of the samples. A value
    without a block leaves the block's samples out of every split. The score of few samples is too
    low, so compare only equal n and splits. Raises UserError with too few samples for the splits.
    """
    n = len(logits)
    block, blocks = blocks_of_samples(n, blocks)
    order = np.random.RandomState(SEED).permutation(n)
    log_p, block = logits[order].double().log_softmax(dim=1), block[order]
    cuts = [i * n // splits for i in range(splits + 1)]
    scores = [
        _scores(log_p[start:end], one_hot(block[start:end], blocks).to(log_p))
        for start, end in pairwise(cuts)
    ]
    return estimate_of(torch.stack(scores).mean(dim=0), block)


def _scores(log_p: Tensor, membership: Tensor) -> Tensor:
    """Score one split, n×classes, with all samples and then without each block.

    `membership` is n×B of 0 and 1.
    """
    p = log_p.exp()
    counts = membership.sum(dim=0)
    sums = membership.T @ p
    negative_entropies = membership.T @ (p * log_p).sum(dim=1)
    if len(p) == 0 or (counts == len(p)).any():
        raise UserError(
            f"metric.measure.splits: a split of {len(p)} samples is too small; use fewer splits"
        )

    def score(n: Tensor, p_sum: Tensor, negative_entropy: Tensor) -> Tensor:
        q = p_sum / n
        return (negative_entropy / n[..., 0] - torch.xlogy(q, q).sum(dim=-1)).exp()

    whole = score(counts.sum()[None], sums.sum(dim=0), negative_entropies.sum())
    without_block = score(
        (counts.sum() - counts)[:, None],
        sums.sum(dim=0) - sums,
        negative_entropies.sum() - negative_entropies,
    )
    return torch.cat([whole[None], without_block])
