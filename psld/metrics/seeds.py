"""Estimates over several seeds, of sampling and of training, as one `Estimate` of their mean."""

from collections.abc import Sequence
from statistics import fmean

from psld.metrics.estimate import Estimate


def averaged(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean of cells that share their noise: several trainings, one sampling seed.

    The values without block j are averaged too, so a common effect of the noise stays in the error.
    """
    first = estimates[0]
    return Estimate(
        value=fmean(estimate.value for estimate in estimates),
        samples=first.samples,
        block_samples=first.block_samples,
        without_block=tuple(map(fmean, zip(*(e.without_block for e in estimates), strict=True))),
    )


def pooled(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean of cells with independent noise: several sampling seeds.

    All blocks count, each with its own pseudo-value, as if all samples were of one cell.
    """
    value = fmean(estimate.value for estimate in estimates)
    samples = sum(estimate.samples for estimate in estimates)
    blocks = [m for estimate in estimates for m in estimate.block_samples]
    pseudo_values = [pseudo for estimate in estimates for pseudo in estimate.pseudo_values]
    return Estimate(
        value=value,
        samples=samples,
        block_samples=tuple(blocks),
        without_block=tuple(
            (samples * value - m * pseudo) / (samples - m)
            for m, pseudo in zip(blocks, pseudo_values, strict=True)
        ),
    )


def spread(values: Sequence[float]) -> Estimate:
    """Return the mean of T ≥ 2 independent values: one for each training.

    Each value is a block of its own, so the error is the standard deviation over √T, and the
    interval has T − 1 degrees of freedom.
    """
    total, count = sum(values), len(values)
    return Estimate(
        value=total / count,
        samples=count,
        block_samples=(1,) * count,
        without_block=tuple((total - value) / (count - 1) for value in values),
    )
