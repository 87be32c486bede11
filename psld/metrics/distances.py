"""Distances between sets of features (Fréchet, kernel), and the Inception Score."""

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from psld.metrics.estimate import Estimate
from psld.metrics.features import BLOCKS, Blocks, FeatureStatistics, assign_blocks, jackknife
from psld.utils.errors import RunError, UserError

SEED = 2020
"""torch-fidelity's seed: equal features give its subsets, and equal logits its splits."""


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """Return |μ₁ − μ₂|² + Tr(C₁ + C₂ − 2 (C₁C₂)^½), in float64 (Heusel et al. 2017, eq. 6).

    With C₁ = AAᵀ and C₂ = BBᵀ, the eigenvalues of C₁C₂ are those of (AᵀB)(AᵀB)ᵀ. So the trace of
    the square root is the sum of the singular values of AᵀB. No square root of a rounding error is
    taken, and singular covariances (fewer samples than features) need no special case.

    Raises UserError if the dimensions differ or a set has fewer than two samples, and RunError if
    features are NaN or infinite.
    """
    return _distance(_Gaussian(a), _Gaussian(b))


def frechet_estimate(
    samples: Tensor, reference: FeatureStatistics, blocks: int | Blocks = BLOCKS
) -> Estimate:
    """Return the Fréchet distance of features, n×d, with its interval; the reference is fixed.

    Distances of n samples are biased upward by about c / n: `interval` is for their mean,
    `extrapolated` for the distance of the model's distribution. The cost is one distance per block
    plus one: a minute of one core for 20 blocks of 2,048 features (`python -m benchmarks.metrics`).
    Memory is 8·B·d² bytes: 671 MB for Inception's 2,048 features and B = 20 blocks.

    Raises as `frechet_distance` does, and UserError with fewer than three samples.
    """
    blocks = assign_blocks(len(samples), blocks)
    block = blocks.block.to(samples.device)
    parts = [FeatureStatistics.of(samples[block == j]) for j in range(blocks.count)]
    total, fixed = sum(parts[1:], start=parts[0]), _Gaussian(reference)
    values = [_distance(_Gaussian(each), fixed) for each in (total, *(total - p for p in parts))]
    return jackknife(torch.tensor(values, dtype=torch.float64), blocks, features=samples.shape[1])


class _Gaussian:
    """The mean of features, and the trace and factor A of their covariance AAᵀ."""

    def __init__(self, statistics: FeatureStatistics) -> None:
        covariance = finite(statistics.covariance.cpu())
        self.mean = statistics.mean.cpu()
        self.trace = covariance.trace()
        self.factor = _factor(covariance)


def _distance(a: _Gaussian, b: _Gaussian) -> float:
    if len(a.mean) != len(b.mean):
        raise UserError(
            f"statistics of {len(a.mean)} and of {len(b.mean)} features cannot be compared: "
            "they are of different extractors"
        )
    cross = torch.linalg.svdvals(a.factor.T @ b.factor).sum()
    distance = (a.mean - b.mean).square().sum() + a.trace + b.trace - 2 * cross
    return max(distance.item(), 0.0)  # equal statistics give 0 up to rounding, of either sign


def _factor(covariance: Tensor) -> Tensor:
    """Return A, d×r, with AAᵀ = covariance and r its numerical rank, by a pivoted Cholesky factor.

    It costs d r² operations: little if there are fewer samples than features.
    """
    # Importing SciPy takes a quarter of a second, and only distances need it.
    from scipy.linalg.lapack import dpstrf

    factor, pivots, rank, _ = dpstrf(covariance.numpy(), lower=1)
    rows = torch.from_numpy(factor).tril()[:, :rank]
    unpivoted = torch.empty_like(rows)
    unpivoted[torch.from_numpy(pivots).long() - 1] = rows
    return unpivoted


def finite(features: Tensor) -> Tensor:
    """Return features, or statistics of them, as they are. Raises RunError if one is not finite."""
    if not features.isfinite().all():
        raise RunError("the features hold NaN or infinity: the images or the extractor are broken")
    return features


def kernel_distance(
    samples: Tensor,
    reference: Tensor,
    subsets: int = 100,
    subset_size: int = 1000,
    blocks: int | Blocks = BLOCKS,
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
    are the same for all cells of equal n and are taken as fixed, so the interval does not include
    their error. It shifts cells of the same distribution equally, but not other cells: its term
    −2 mean k(x, y) depends on x. Raises UserError if a subset is too small.
    """
    random = np.random.RandomState(SEED)
    blocks = assign_blocks(len(samples), blocks)
    values = torch.zeros(blocks.count + 1, dtype=torch.float64)
    for _ in range(subsets):
        of_samples, of_reference = (
            random.choice(len(each), min(subset_size, len(each)), replace=False)
            for each in (samples, reference)
        )
        x, y = samples[of_samples].double(), reference[of_reference].double()
        values += _mmd(x, y, one_hot(blocks.block[of_samples], blocks.count).to(x)).cpu()
    return jackknife(values / subsets, blocks)


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


def inception_score(logits: Tensor, splits: int = 10, blocks: int | Blocks = BLOCKS) -> Estimate:
    """Return exp(mean_i KL(p(y|x_i) ‖ p(y))), averaged over random splits (Salimans et al. 2016).

    Args:
        logits: n×classes.
        splits: disjoint parts of the samples, each with its own p(y).

    The value is that of `torch_fidelity.calculate_metrics`, with its order of the samples. A value
    without a block leaves the block's samples out of every split. The score of few samples is too
    low, so compare only equal n and splits. Raises UserError with too few samples for the splits.
    """
    n = len(logits)
    blocks = assign_blocks(n, blocks)
    order = np.random.RandomState(SEED).permutation(n)
    log_p, block = logits[order].double().log_softmax(dim=1), blocks.block[order]
    cuts = [i * n // splits for i in range(splits + 1)]
    scores = [
        _split_scores(log_p[start:end], one_hot(block[start:end], blocks.count).to(log_p))
        for start, end in pairwise(cuts)
    ]
    return jackknife(torch.stack(scores).mean(dim=0), blocks)


def _split_scores(log_p: Tensor, membership: Tensor) -> Tensor:
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
