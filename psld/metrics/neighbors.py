"""Nearest neighbors in feature space: precision, recall and memorization."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from psld.metrics.estimate import Estimate
from psld.metrics.features import BLOCKS, assign_blocks, jackknife, share_estimate
from psld.utils.errors import UserError

ROWS = 500
"""Rows of a distance matrix at a time: 200 MB for 50,000 columns."""


def precision(
    samples: Tensor, reference: Tensor, neighbors: int = 3, blocks: int = BLOCKS
) -> Estimate:
    """Return the share of samples that are among the reference (Kynkäänniemi et al. 2019).

    A sample is among the reference if it is at least as near to some reference image as this image
    is to its k-th nearest neighbor in the reference. Features are n×d and m×d, on any device. The
    cost is m² + nm distances.
    """
    _check_neighbors(len(reference), neighbors)
    radii = torch.cat([_kth(d, neighbors) for d in _distances(reference, reference)])
    covered = torch.cat([(d <= radii).any(dim=1) for d in _distances(samples, reference)])
    return share_estimate(covered, blocks)


def recall(
    samples: Tensor, reference: Tensor, neighbors: int = 3, blocks: int = BLOCKS
) -> Estimate:
    """Return the share of the reference that is among the samples: `precision` with roles swapped.

    Recall grows with the number of samples, so compare only equal n. Without a block, each sample's
    ball reaches to its k-th neighbor outside that block. Indicators of nearest neighbors are not
    smooth, which makes these intervals a third to two thirds too wide (docs/results.md).
    """
    block, blocks = assign_blocks(len(samples), blocks)
    block = block.to(samples.device)
    _check_neighbors(len(samples) - int(block.bincount().max()), neighbors)
    radii = _radii_without(samples, block, neighbors, blocks)
    covered = sum(
        torch.stack([(d <= radius).any(dim=1).sum() for radius in radii])
        for d in _distances(reference, samples)
    )
    return jackknife(covered.double() / len(reference), block, share=True)


def _check_neighbors(images: int, neighbors: int) -> None:
    if images <= neighbors:
        raise UserError(f"metric.measure.neighbors={neighbors}: too many for {images} images")


def _radii_without(samples: Tensor, block: Tensor, neighbors: int, blocks: int) -> Tensor:
    """Compute each sample's radius, with all samples and then without each block, (B + 1)×n.

    Samples of the omitted block get −1: their balls are empty.
    """
    members = [torch.nonzero(block == index).squeeze(1) for index in range(blocks)]
    parts = []
    for d in _distances(samples, samples):
        # The k + 1 nearest of each block are enough to find the k-th without any one block.
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
    """Return the distance to the k-th neighbor in each row; the nearest is the image itself."""
    return distances.kthvalue(neighbors + 1, dim=1).values


def _distances(a: Tensor, b: Tensor) -> Iterator[Tensor]:
    """Yield the Euclidean distances between all a and b, `ROWS` rows at a time.

    In float64: the rounding of float32, which differs between machines, would decide some of the
    comparisons of distances, and so change a count.
    """
    b = b.double()
    return (torch.cdist(rows.double(), b) for rows in a.split(ROWS))


class Memorization(NamedTuple):
    """The distances of samples to the training images."""

    share: Estimate
    """The share of samples nearer to a training image than the threshold."""
    threshold: float
    """The quantile of the test images' distances."""
    distances: Tensor
    """The distance from each sample to the nearest training image, n."""
    nearest: Tensor
    """Index of that training image, n."""

    def pairs(self, count: int) -> list[tuple[int, int]]:
        """Return the `count` nearest pairs (sample, training image), the nearest first."""
        samples = self.distances.argsort(stable=True)[:count]
        return list(zip(samples.tolist(), self.nearest[samples].tolist(), strict=True))


def memorization(
    samples: Tensor, train: Tensor, test: Tensor, quantile: float = 0.05, blocks: int = BLOCKS
) -> Memorization:
    """Measure the share of samples that are nearer to a training image than most test images are.

    The threshold is the `quantile` of the distances from N test images to their nearest training
    images: their number (N + 1) · quantile in order, so that new images of the same distribution
    have this share on average. A larger share is a sign of memorization; a smaller one is a sign of
    samples far from the data. The interval includes the error of the threshold, as it is for new
    images of the same distribution.

    Args:
        samples, train, test: features of one extractor, n×d with a separate n each.
    """
    of_test = nearest(test, train)[0].double().cpu().numpy()
    threshold = float(np.quantile(of_test, quantile, method="weibull"))
    distances, index = nearest(samples, train)
    return Memorization(
        share=share_estimate(distances < threshold, blocks, threshold_images=len(test)),
        threshold=threshold,
        distances=distances,
        nearest=index,
    )


def nearest(features: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """Return distance to, and index of, the nearest of `among` for each row of `features`."""
    parts = [d.min(dim=1) for d in _distances(features, among)]
    return torch.cat([p.values for p in parts]), torch.cat([p.indices for p in parts])
