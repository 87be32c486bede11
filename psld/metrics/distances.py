"""Measures of features: Fréchet and kernel distance, Inception Score, nearest neighbors.

The argument `blocks` contains the blocks of a jackknife over the samples. The argument `once` is a
function, called as `once(name, compute)`, that returns a quantity that depends only on the
reference. It may read the quantity from a cache (`Reference.once`). By default, it calls `compute`.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from psld.metrics.blocks import Blocks, jackknife, share_estimate, with_and_without
from psld.metrics.estimate import Estimate, Finding
from psld.metrics.features import BlockMoments, FeatureStatistics, finite
from psld.utils.errors import UserError

SEED = 2020
"""The seed that torch-fidelity uses. With this seed, the subsets and splits are the same."""

ROWS = 500
"""Rows of a distance matrix that are computed at a time: 200 MB for 50,000 columns."""

Once = Callable[[str, Callable[[], Tensor]], Tensor]


def computed(name: str, compute: Callable[[], Tensor]) -> Tensor:
    return compute()


# -- Fréchet distance -----------------------------------------------------------------------------


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """Return |μ₁ − μ₂|² + Tr(C₁ + C₂ − 2 (C₁C₂)^½), in float64 (Heusel et al. 2017, eq. 6).

    With C₁ = AAᵀ and C₂ = BBᵀ, C₁C₂ and (AᵀB)(AᵀB)ᵀ have the same nonzero eigenvalues. Therefore
    the trace of the square root is the sum of the singular values of AᵀB. This avoids square roots
    of rounding errors, and singular covariances (fewer samples than features) need no special case.

    Raises UserError if the dimensions differ or if a set has fewer than two samples, and RunError
    if features are NaN or infinite.
    """
    return _distance(_Gaussian(a), _Gaussian(b))


def frechet_estimate(samples: BlockMoments, reference: FeatureStatistics) -> Estimate:
    """Return the Fréchet distance of samples to a fixed reference, with its interval.

    The cost is B + 1 distances for B blocks: 20 blocks of 2,048 features take a minute on one core
    (`python -m benchmarks.metrics`). Raises the errors of `frechet_distance`, and UserError with
    fewer than three samples.
    """
    blocks, fixed = samples.blocks(), _Gaussian(reference)
    left_out = map(samples.without, range(blocks.count))
    values = [_distance(_Gaussian(each), fixed) for each in (samples.total, *left_out)]
    return jackknife(values, blocks, features=len(samples.total.sum))


class _Gaussian:
    """The mean of features, the trace of their covariance, and a factor A, d×r, of this covariance.

    The covariance is AAᵀ, and r is its numerical rank. The pivoted Cholesky factorization takes
    d r² operations, which is fast with fewer samples than features.
    """

    def __init__(self, statistics: FeatureStatistics) -> None:
        # Importing SciPy takes a quarter of a second, and only distances need it.
        from scipy.linalg import lapack

        covariance = finite(statistics.covariance.cpu())
        self.mean, self.trace = statistics.mean.cpu(), covariance.trace()
        factor, pivots, rank, _ = cast(Any, lapack).dpstrf(covariance.numpy(), lower=1)
        rows = torch.from_numpy(factor).tril()[:, :rank]
        self.factor = torch.empty_like(rows)
        self.factor[torch.from_numpy(pivots).long() - 1] = rows


def _distance(a: _Gaussian, b: _Gaussian) -> float:
    if len(a.mean) != len(b.mean):
        raise UserError(
            f"statistics of {len(a.mean)} and of {len(b.mean)} features cannot be compared; "
            "use one extractor for both"
        )
    cross = torch.linalg.svdvals(a.factor.T @ b.factor).sum()
    distance = (a.mean - b.mean).square().sum() + a.trace + b.trace - 2 * cross
    return max(distance.item(), 0.0)  # rounding can make the distance of equal statistics negative


# -- kernel distance and Inception Score ----------------------------------------------------------


def kernel_distance(
    samples: Tensor, reference: Tensor, subsets: int, subset_size: int, blocks: Blocks
) -> Estimate:
    """Return the mean of the unbiased MMD² over random subsets (Bińkowski et al. 2018, eq. 4).

        MMD² = mean_{i≠j} k(xᵢ, xⱼ) + mean_{i≠j} k(yᵢ, yⱼ) − 2 mean_{i,j} k(xᵢ, yⱼ)
        k(x, y) = (x·y / d + 1)³

    The features of the samples, x, are n×d; the features of the reference, y, are m×d. Pairs of
    subsets are drawn as in torch-fidelity, so the value equals the value of
    `torch_fidelity.calculate_metrics`. The value is unbiased and may be negative. If a set has
    fewer than `subset_size` images, as in a rehearsal, each of its subsets is the complete set.

    For the value without a block, the samples of the block are removed from every subset. All cells
    with equal n use the same subsets of the reference, and the interval does not include the error
    from the choice of these subsets. Raises ValueError if a subset without a block has fewer than
    two samples.
    """
    random = np.random.RandomState(SEED)
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
    """Return B + 1 numbers: MMD² between x, n×d, and y, then MMD² without each block of x.

    `membership`, n×B, is 1 if a sample is in a block, else 0.
    """
    n = with_and_without(membership.sum(dim=0))
    among_x = membership.T @ _kernel(x, x).fill_diagonal_(0) @ membership
    rest = among_x.sum() - 2 * among_x.sum(dim=1) + among_x.diagonal()
    among_x = torch.cat([among_x.sum()[None], rest])
    with_y = with_and_without(membership.T @ _kernel(x, y).sum(dim=1))
    among_y = _kernel(y, y).fill_diagonal_(0).sum() / (len(y) * (len(y) - 1))
    return among_x / (n * (n - 1)) + among_y - 2 * with_y / (n * len(y))


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def inception_score(logits: Tensor, splits: int, blocks: Blocks) -> Estimate:
    """Return exp(mean_i KL(p(y|x_i) ‖ p(y))), averaged over random splits (Salimans et al. 2016).

    The logits are n×classes. Each split has its own p(y). The value equals the value of
    `torch_fidelity.calculate_metrics`, which shuffles the samples in the same way. For the value
    without a block, the samples of the block are removed from every split. The score is biased
    downward for few samples, so compare only scores with equal n and equally many splits. Raises
    ValueError if all samples of a split are in one block.
    """
    n = len(logits)
    order = np.random.RandomState(SEED).permutation(n)
    log_p, block = logits[order].double().log_softmax(dim=1), blocks.block[order]
    cuts = [i * n // splits for i in range(splits + 1)]
    scores = [
        _split_scores(log_p[start:end], one_hot(block[start:end], blocks.count).to(log_p))
        for start, end in pairwise(cuts)
    ]
    return jackknife(torch.stack(scores).mean(dim=0), blocks)


def _split_scores(log_p: Tensor, membership: Tensor) -> Tensor:
    """Return B + 1 numbers: the score of a split, then the score of the split without each block.

    `log_p` is n×classes. `membership`, n×B, is 1 if a sample is in a block, else 0.
    """
    n = with_and_without(membership.sum(dim=0))
    p = log_p.exp()
    q = with_and_without(membership.T @ p) / n[:, None]
    negative_entropy = with_and_without(membership.T @ (p * log_p).sum(dim=1)) / n
    return (negative_entropy - torch.xlogy(q, q).sum(dim=1)).exp()


# -- nearest neighbors ----------------------------------------------------------------------------


def precision(
    samples: Tensor, reference: Tensor, neighbors: int, blocks: Blocks, once: Once = computed
) -> Estimate:
    """Return precision: the fraction of samples that are in the support of the reference.

    A sample counts if its distance to some reference image is at most the distance from this image
    to its k-th nearest neighbor in the reference (Kynkäänniemi et al. 2019). The features of the
    samples are n×d, and the features of the reference are m×d. The cost is m² + nm distances.
    """

    def radii_of_reference() -> Tensor:
        return torch.cat([_kth(d, neighbors) for d in _distances(reference, reference)])

    radii = once(f"radii of {neighbors} neighbors", radii_of_reference).to(samples.device)
    covered = torch.cat([(d <= radii).any(dim=1) for d in _distances(samples, reference)])
    return share_estimate(covered, blocks)


def recall(samples: Tensor, reference: Tensor, neighbors: int, blocks: Blocks) -> Estimate:
    """Return recall: the fraction of reference images that are in the support of the samples.

    This is `precision` with samples and reference exchanged. Recall grows with the number of
    samples n, so compare only values with equal n. For the value without a block, the radius of a
    sample is the distance to its k-th neighbor outside this block. The intervals of recall are too
    wide by a third to two thirds (docs/notes/intervals.md).
    """
    block = blocks.block.to(samples.device)
    radii = _radii_without(samples, block, neighbors, blocks.count)
    covered: Any = sum(
        torch.stack([(d <= radius).any(dim=1).sum() for radius in radii])
        for d in _distances(reference, samples)
    )
    return jackknife(covered.double() / len(reference), blocks, share=True)


def _radii_without(samples: Tensor, block: Tensor, neighbors: int, blocks: int) -> Tensor:
    """Return the radius of each sample among all samples, then without each block, (B + 1)×n.

    Samples of the omitted block get the radius −1, so that they cover no image.
    """
    members = [torch.nonzero(block == index).squeeze(1) for index in range(blocks)]
    parts = []
    for d in _distances(samples, samples):
        # The k + 1 nearest neighbors in each block determine the k-th neighbor for each omitted
        # block.
        nearest = [
            d[:, m].topk(min(neighbors + 1, len(m)), dim=1, largest=False).values for m in members
        ]
        others = [nearest, *(nearest[:j] + nearest[j + 1 :] for j in range(blocks))]
        parts.append(torch.stack([_kth(torch.cat(each, dim=1), neighbors) for each in others]))
    radii = torch.cat(parts, dim=1)
    for index, m in enumerate(members):
        radii[index + 1, m] = -1
    return radii


def _kth(distances: Tensor, neighbors: int) -> Tensor:
    """Return the distance to the k-th neighbor per row, not counting the image itself."""
    # Use topk, because torch.kthvalue takes ten times as long for 60,000 columns.
    return distances.topk(neighbors + 1, dim=1, largest=False).values[:, -1]


def _distances(a: Tensor, b: Tensor) -> Iterator[Tensor]:
    """Yield the Euclidean distances between all rows of a and b, `ROWS` rows of a at a time.

    The distances are float64. In float32, rounding differs between machines, so some comparisons of
    distances would have different results. Raises RunError for NaN and infinity.
    """
    a, b = finite(a), finite(b).double()
    return (torch.cdist(rows.double(), b) for rows in a.split(ROWS))


NEAREST_PAIRS = 8
"""The number of nearest pairs of sample and training image in a result."""


def memorization(
    samples: Tensor,
    train: Tensor,
    test: Tensor,
    quantile: float,
    blocks: Blocks,
    once: Once = computed,
) -> Finding:
    """Return the fraction of samples that are nearer to a training image than most test images are.

    The threshold is the `quantile` of the distances from N test images to their nearest training
    images: the distance with the rank (N + 1) · quantile in ascending order. On average, a fraction
    `quantile` of new images of the same distribution is then below the threshold. A larger fraction
    of samples indicates memorization; a smaller fraction indicates samples far from the data. The
    interval includes the error of the threshold. The value is void if the threshold is 0 up to
    rounding, because then test images are also training images.
    """
    distances = once("distances of test images", lambda: nearest(test, train)[0])
    of_test = distances.double().cpu().numpy()
    threshold = float(np.quantile(of_test, quantile, method="weibull"))
    void = None
    if threshold <= (rounding := 1e-4 * of_test.max()):
        found = f"{np.mean(of_test <= rounding):.1%} of the test images equal a training image"
        remedy = "remove these from the dataset (psld prepare counts them)"
        void = f"{found}, so copies are not nearer than test images; {remedy}"
    distances, index = nearest(samples, train)
    share = share_estimate(distances < threshold, blocks, threshold_images=len(test))
    first = distances.argsort(stable=True)[:NEAREST_PAIRS]
    pairs = zip(first.tolist(), index[first].tolist(), strict=True)
    return Finding(share, void, list(pairs))


def nearest(features: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distance and the index of the nearest row of `among` for each row of features."""
    parts = [d.min(dim=1) for d in _distances(features, among)]
    return torch.cat([p.values for p in parts]), torch.cat([p.indices for p in parts])
