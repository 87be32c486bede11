"""All metrics, computed from the features of samples and of a reference.

Those of nearest neighbors (precision, recall and memorization) are here, the others in
`psld.metrics.distances`.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from psld.metrics.distances import (
    finite,
    frechet_distance,
    frechet_estimate,
    inception_score,
    kernel_distance,
)
from psld.metrics.estimate import Estimate
from psld.metrics.features import (
    BLOCKS,
    Blocks,
    Features,
    FeatureStatistics,
    assign_blocks,
    distinct_numbers,
    jackknife,
    share_estimate,
)
from psld.metrics.settings import (
    FrechetSettings,
    InceptionScoreSettings,
    KernelSettings,
    MemorizationSettings,
    MetricSettings,
    NeighborSettings,
)
from psld.utils.errors import UserError

ROWS = 500
"""Rows of a distance matrix at a time: 200 MB for 50,000 columns."""


class Reference(NamedTuple):
    """The images that samples are compared with, and those that give a metric its scale."""

    train: Features | FeatureStatistics
    """Of the training split, or of other images; statistics if the images are not known."""
    test: Features | None
    """None if the dataset has no test split."""
    noise: Features | None
    """Standard normal noise, quantized as samples are; None for a reference of other images."""

    def split(self, name: str) -> Features | FeatureStatistics:
        """Return the images of `train` or `test`. Raises UserError if there are none."""
        images = self.train if name == "train" else self.test
        if images is None:
            raise UserError("the reference has no test images; choose another reference_split")
        return images


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


def measure(
    metric: MetricSettings,
    samples: Features,
    reference: Reference,
    device: torch.device | str = "cpu",
    blocks: int = BLOCKS,
) -> Estimate:
    """Compute a metric with its interval. All metrics of one extractor share the samples' features.

        samples = gather(extractor, batches, "samples", total)
        estimates = {m.name: measure(m, samples, reference) for m in metrics}

    Raises UserError if the samples are too few, and RunError if features are NaN or infinite.
    """
    settings, cut = metric.measure, samples.blocks(blocks)
    match settings:
        case FrechetSettings():
            split = reference.split(metric.reference_split)
            return frechet_estimate(_values(samples, device), split.total, cut)
        case InceptionScoreSettings():
            logits = samples.logits
            if logits is None:
                raise UserError(f"{metric.name}: the extractor gives no logits")
            splits = min(settings.splits, max(1, len(logits) // 2))  # a rehearsal has few samples
            return inception_score(finite(logits), splits, cut)
        case MemorizationSettings():
            return measure_memorization(metric, samples, reference, device, blocks).share
    x, y = (
        _values(images, device) for images in (samples, reference.split(metric.reference_split))
    )
    match settings:
        case KernelSettings():
            return kernel_distance(x, y, settings.subsets, settings.subset_size, cut)
        case NeighborSettings(kind=kind):
            share = precision if kind == "precision" else recall
            return share(x, y, settings.neighbors, cut)


def measure_reference(
    metric: MetricSettings,
    samples: Features,
    reference: Reference,
    device: torch.device | str = "cpu",
    blocks: int = BLOCKS,
) -> Estimate | None:
    """Compute a metric with the interval for other images of the reference, of the same samples.

    It is `measure` with the two sets exchanged, which changes no distance, and makes precision
    recall. None for statistics, for metrics without a reference, and for memorization. Raises as
    `measure` does.
    """
    exchanged = {"precision": "recall", "recall": "precision", "frechet": None, "kernel": None}
    settings, images = metric.measure, reference.split(metric.reference_split)
    if settings.kind not in exchanged or isinstance(images, FeatureStatistics):
        return None
    if images.numbers is None:  # a dataset's, of which only the features were kept
        images = replace(images, numbers=distinct_numbers(images.values.numpy()))
    if kind := exchanged[settings.kind]:
        settings = settings.model_copy(update={"kind": kind})
    metric = metric.model_copy(update={"measure": settings, "reference_split": "train"})
    return measure(metric, images, Reference(samples, None, None), device, blocks)


def measure_memorization(
    metric: MetricSettings,
    samples: Features,
    reference: Reference,
    device: torch.device | str = "cpu",
    blocks: int = BLOCKS,
) -> Memorization:
    """Compute memorization with the distances behind it. Raises as `measure` does."""
    images = (samples, reference.train, reference.split("test"))
    x, train, test = (_values(each, device) for each in images)
    return memorization(x, train, test, metric.measure.quantile, samples.blocks(blocks))


def scale(
    metric: MetricSettings, reference: Reference, device: torch.device | str = "cpu"
) -> dict[str, float | None]:
    """Return the metric of real images that are not in the reference (`floor`), and of `noise`.

    Each is None without such images. The floor is of all images of the split, which may be more or
    fewer than a cell's samples: a Fréchet distance or recall compares only with cells of as many.
    """

    def value(images: Features | None) -> float | None:
        if images is None:
            return None
        if metric.measure.kind == "frechet":
            return frechet_distance(images.total, reference.split(metric.reference_split).total)
        # The interval does not count, so the fewest blocks are enough.
        return measure(metric, images, reference, device, blocks=2).value

    held_out = reference.train if metric.reference_split == "test" else reference.test
    return {"floor": value(held_out), "noise": value(reference.noise)}


def _values(images: Features | FeatureStatistics, device: torch.device | str) -> Tensor:
    if isinstance(images, FeatureStatistics):
        raise UserError(
            "the reference has statistics (mu, sigma), enough for Fréchet distances alone; give "
            "its images"
        )
    return finite(images.values).to(device)


# -- nearest neighbors ----------------------------------------------------------------------------


def precision(
    samples: Tensor, reference: Tensor, neighbors: int = 3, blocks: int | Blocks = BLOCKS
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
    samples: Tensor, reference: Tensor, neighbors: int = 3, blocks: int | Blocks = BLOCKS
) -> Estimate:
    """Return the share of the reference that is among the samples: `precision` with roles swapped.

    Recall grows with the number of samples, so compare only equal n. Without a block, each sample's
    ball reaches to its k-th neighbor outside that block. Indicators of nearest neighbors are not
    smooth, which makes these intervals a third to two thirds too wide (docs/notes/intervals.md).
    """
    blocks = assign_blocks(len(samples), blocks)
    block = blocks.block.to(samples.device)
    _check_neighbors(len(samples) - int(block.bincount().max()), neighbors)
    radii = _radii_without(samples, block, neighbors, blocks.count)
    covered = sum(
        torch.stack([(d <= radius).any(dim=1).sum() for radius in radii])
        for d in _distances(reference, samples)
    )
    return jackknife(covered.double() / len(reference), blocks, share=True)


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


def memorization(
    samples: Tensor,
    train: Tensor,
    test: Tensor,
    quantile: float = 0.05,
    blocks: int | Blocks = BLOCKS,
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
