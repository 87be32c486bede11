"""The kernel distance (KID in Inception features): squared MMD with a cubic kernel."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from psld.metrics.blocks import BLOCKS
from psld.metrics.estimate import Estimate
from psld.metrics.features import blocks_of_samples, estimate_of
from psld.utils.errors import UserError

SEED = 2020
"""torch-fidelity's seed: equal features give its subsets."""


def kernel_distance(
    samples: Tensor,
    reference: Tensor,
    subsets: int = 100,
    subset_size: int = 1000,
    blocks: int = BLOCKS,
) -> Estimate:
    """Return the mean over random subsets of the unbiased MMD² (Bińkowski et al. 2018, eq. 4).

        MMD² = mean_{i≠j} k(xᵢ, xⱼ) + mean_{i≠j} k(yᵢ, yⱼ) − 2 mean_{i,j} k(xᵢ, yⱼ)
        k(x, y) = (x·y / d + 1)³

    Args:
        samples: features x of the samples, n×d.
        reference: features y of the reference, m×d.
        subsets: pairs of subsets, drawn as in torch-fidelity.
        subset_size: samples in a subset; a smaller set, as in a rehearsal, is used whole.

    The value is that of `torch_fidelity.calculate_metrics`. It is unbiased, so it may be negative.
    A value without a block leaves the block's samples out of every subset. The reference's subsets
    are the same for all cells of equal n and are taken as fixed: they shift all cells equally, and
    the interval does not include this shift. Raises UserError if a subset is too small.
    """
    random = np.random.RandomState(SEED)
    block, blocks = blocks_of_samples(len(samples), blocks)
    values = torch.zeros(blocks + 1, dtype=torch.float64)
    for _ in range(subsets):
        of_samples, of_reference = (
            random.choice(len(each), min(subset_size, len(each)), replace=False)
            for each in (samples, reference)
        )
        x, y = samples[of_samples].double(), reference[of_reference].double()
        values += _mmd(x, y, one_hot(block[of_samples], blocks).to(x)).cpu()
    return estimate_of(values / subsets, block)


def _mmd(x: Tensor, y: Tensor, membership: Tensor) -> Tensor:
    """Return MMD² of all x, n×d, to y, then without each block; `membership` is n×B of 0 and 1."""
    among_x = membership.T @ _kernel(x, x).fill_diagonal_(0) @ membership
    with_y = membership.T @ _kernel(x, y).sum(dim=1)
    among_y = _kernel(y, y).fill_diagonal_(0).sum() / (len(y) * (len(y) - 1))
    counts = membership.sum(dim=0)
    if (counts > len(x) - 2).any():
        raise UserError(
            f"metric.measure.subset_size={len(x)} is too small for {len(counts)} blocks"
        )

    def mmd(n: Tensor, xx: Tensor, xy: Tensor) -> Tensor:
        return xx / (n * (n - 1)) + among_y - 2 * xy / (n * len(y))

    whole = mmd(counts.sum(), among_x.sum(), with_y.sum())
    rest = among_x.sum() - 2 * among_x.sum(dim=1) + among_x.diagonal()
    without_block = mmd(counts.sum() - counts, rest, with_y.sum() - with_y)
    return torch.cat([whole[None], without_block])


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3
