"""Coverage of the 95 % intervals in populations whose numbers are known.

python -m benchmarks.coverage

prints the tables of docs/notes/intervals.md.
"""

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from psld.metrics.blocks import assign_blocks, distinct_numbers, share_estimate
from psld.metrics.distances import frechet_estimate, memorization, recall
from psld.metrics.estimate import (
    Difference,
    Estimate,
    Interval,
    averaged,
    combined,
    holm,
    paired_difference,
    spread,
    t_quantile,
    unpaired_difference,
)
from psld.metrics.features import FeatureStatistics

D = 64
MEAN = 0.1

normal = partial(torch.randn, dtype=torch.float64)


def skewed(*shape: int) -> Tensor:
    return (normal(shape).square() - 1) / 2**0.5


def heavy(*shape: int) -> Tensor:
    """Student's t with 5 degrees of freedom, for each feature."""
    return normal(shape) * (3 / normal(5, *shape).square().sum(dim=0)) ** 0.5


def outliers(*shape: int) -> Tensor:
    """The same, with one random scale for all features of a sample."""
    return normal(shape) * (3 / normal(5, shape[0], 1).square().sum(dim=0)) ** 0.5


def coverage(intervals: Iterable[Interval], truth: float) -> float:
    return float(np.mean([each.low <= truth <= each.high for each in intervals]))


def line(*cells: object) -> None:
    """Print a line of the table."""
    print("|", *(f"{c:.3f} |" if isinstance(c, float) else f"{c} |" for c in cells))


def reference(d: int) -> FeatureStatistics:
    """Statistics of exactly mean 0 and covariance 1."""
    return FeatureStatistics(1000, torch.zeros(d).double(), 999 * torch.eye(d).double())


def frechet(name: str, law: Callable[..., Tensor], d: int, n: int, runs: int) -> None:
    scales = torch.linspace(0.7, 1.3, d, dtype=torch.float64)
    truth = (d * MEAN**2 + (scales - 1).square().sum()).item()
    estimates = [frechet_estimate(MEAN + scales * law(n, d), reference(d)) for _ in range(runs)]
    covered = coverage((e.interval for e in estimates), np.mean([e.value for e in estimates]))
    # Any number of samples is enough to extrapolate one feature.
    forced = [Estimate(**{**each.model_dump(), "features": 1}) for each in estimates]
    limit = coverage((each.extrapolated for each in forced), truth)
    given = np.mean([each.extrapolated is not None for each in estimates])
    line(f"Fréchet distance, {name}", n, covered, limit if given > 0.5 else f"({limit:.3f})")


def near(distance: float, n: int) -> None:
    """The error near the data: the part of second order counts twice."""
    shift = (distance / 32) ** 0.5
    estimates = [frechet_estimate(shift + normal(n, 32), reference(32)) for _ in range(400)]
    values = [each.value for each in estimates]
    covered = coverage((each.interval for each in estimates), np.mean(values))
    error = np.mean([each.standard_error for each in estimates]) / np.std(values)
    line(f"Fréchet distance {distance}, 32 features; error × {error:.2f}", n, covered, "")


def copied(times: int) -> None:
    """400 images, one of them many times."""

    def estimate() -> Estimate:
        x = 0.3 + 1.1 * normal(401 - times, 16)
        x = torch.cat([x, x[:1].expand(times - 1, -1)])
        return frechet_estimate(x, reference(16), assign_blocks(distinct_numbers(x.numpy())))

    estimates = [estimate() for _ in range(400)]
    covered = coverage((e.interval for e in estimates), np.mean([e.value for e in estimates]))
    line(f"Fréchet distance, 16 features, one image {times} times", 400, covered, "")


def shares() -> None:
    for share in (0.99, 0.999):
        estimates = [share_estimate(torch.rand(1000) < share) for _ in range(2000)]
        line(f"share of {share}", 1000, coverage((each.interval for each in estimates), share), "")


def recalls(d: int) -> None:
    images = normal(300, d)
    estimates = [recall(0.8 * normal(300, d) + 0.4, images) for _ in range(100)]
    values = [each.value for each in estimates]
    covered = coverage((each.interval for each in estimates), np.mean(values))
    error = np.mean([each.standard_error for each in estimates]) / np.std(values)
    line(f"recall of {np.mean(values):.2f}; error {error:.1f} times too large", 300, covered, "")


def memorization_of_a_perfect_generator(images: int) -> None:
    """Training images, test images and samples are of one distribution; all are drawn again."""
    shares = [
        memorization(normal(1000, 4), normal(200, 4), normal(images, 4)).share for _ in range(500)
    ]
    covered = coverage((share.interval for share in shares), 0.05)
    line(f"memorization, perfect generator, {images} test images", 1000, covered, "")


def turned(x: Tensor) -> Tensor:
    """Other images of the same noise, as of another sampler: the same law, another distance."""
    return x.flip(1)


def related(x: Tensor) -> Tensor:
    return 0.9 * x + 0.19**0.5 * normal(x.shape)


def unrelated(x: Tensor) -> Tensor:
    return normal(x.shape)


def paired(other: Callable[[Tensor], Tensor]) -> None:
    """The interval of the difference covers 0, whatever the dependence of the two cells."""
    scales = torch.linspace(0.7, 1.3, D, dtype=torch.float64)
    differences = []
    for _ in range(200):
        x = normal(300, D)
        a, b = (frechet_estimate(MEAN + scales * each, reference(D)) for each in (x, other(x)))
        differences.append(paired_difference(a, b))
    covered = coverage((each.interval for each in differences), 0.0)
    line(f"paired difference of equal distributions, noise {other.__name__}", 300, covered, "")


def blocks(means: np.ndarray) -> Estimate:
    """The mean of 20 blocks with these means."""
    without = (means.sum() - means) / 19
    return Estimate(value=means.mean(), samples=20, block_samples=(1,) * 20, without_block=without)


def several_trainings(trainings: int) -> None:
    """The worst of several ratios: variance of the mean over trainings to that of their noise."""
    worst, worst_welch = 1.0, 1.0
    for ratio in (0, 0.3, 1, 3, 10):
        random, intervals, welch = np.random.default_rng(0), [], []
        for _ in range(1500):
            noise = random.normal(0, 20**0.5, 20)  # shared by the trainings
            shifts = random.normal(0, (ratio * trainings) ** 0.5, trainings)
            cells = [blocks(noise + shift) for shift in shifts]
            drawn, trained = averaged(cells), spread([cell.value for cell in cells])
            intervals.append(combined(drawn.value, [drawn.interval, trained.interval]))
            [(error, freedom)] = unpaired_difference(drawn, trained).errors
            margin = t_quantile(freedom) * error
            welch.append(Interval(drawn.value, drawn.value - margin, drawn.value + margin))
        worst = min(worst, coverage(intervals, 0.0))
        worst_welch = min(worst_welch, coverage(welch, 0.0))
    name = f"mean of {trainings} trainings (Welch and Satterthwaite: {worst_welch:.3f})"
    line(name, "", worst, "")


def three_trainings(comparisons: int, all_differ: float, one_differs: float) -> None:
    """With 80 % power, in standard deviations of training again; other samples vary nothing.

    Holm's correction finds more if the other comparisons of a claim are found, too.
    """
    random = np.random.default_rng(0)

    def p_value(shift: float) -> float:
        one, two = (
            dict(zip(names, random.normal(size=3), strict=True)) for names in ("abc", "xyz")
        )
        value = shift + np.mean([*one.values()]) - np.mean([*two.values()])
        return Difference(value, (), paired=False).retrained(one, two).p_value

    for shift, rest in ((all_differ, all_differ), (one_differs, 0.0)):
        shifts = [shift, *[rest] * (comparisons - 1)]
        found = [holm([p_value(each) for each in shifts])[0] < 0.05 for _ in range(400)]
        line(f"{comparisons} comparisons, {shift} SD, the others {rest}", "", np.mean(found), "")


def main() -> None:
    laws = {"Gaussian": normal, "skewed": skewed, "heavy": heavy, "outliers": outliers}
    many = ((128, 512), (128, 1024), (256, 1024))
    parts = [
        *(partial(frechet, k, laws[k], D, n, 200) for k in laws for n in (50, 128, 256, 1000)),
        *(partial(frechet, f"Gaussian, {d} features", normal, d, n, 40) for d, n in many),
        *(partial(near, *each) for each in ((0, 1000), (0.1, 1000), (0.1, 4000), (4, 1000))),
        *(partial(copied, times) for times in (10, 20, 50, 200)),
        shares,
        *(partial(recalls, d) for d in (2, 16)),
        *(partial(memorization_of_a_perfect_generator, images) for images in (360, 2000)),
        *(partial(paired, other) for other in (turned, related, unrelated)),
        *(partial(several_trainings, trainings) for trainings in (2, 3, 5)),
        partial(three_trainings, 1, 3.5, 3.5),
        partial(three_trainings, 9, 5.3, 7.5),
        partial(three_trainings, 20, 6.7, 10.0),
    ]
    for part in parts:
        torch.manual_seed(0)
        part()


if __name__ == "__main__":
    main()
