"""Coverage of the 95 % intervals in populations whose numbers are known.

python -m pytest tests/metrics/test_coverage.py -s

prints the table of docs/notes/intervals.md.
"""

from collections.abc import Iterable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from psld.metrics.comparison import Difference, holm, paired_difference, unpaired_difference
from psld.metrics.distances import frechet_estimate
from psld.metrics.estimate import (
    Estimate,
    Interval,
    averaged,
    combined,
    spread,
    t_quantile,
)
from psld.metrics.features import share_estimate
from psld.metrics.measure import memorization, recall
from tests.metrics.test_frechet import gaussian

pytestmark = pytest.mark.slow

D = 64
MEAN, SCALES = 0.1, torch.linspace(0.7, 1.3, D, dtype=torch.float64)
REFERENCE = gaussian(torch.zeros(D), torch.eye(D))
TRUTH = (D * MEAN**2 + (SCALES - 1).square().sum()).item()
"""The Fréchet distance of MEAN + SCALES · u from the reference, if u has mean 0 and variance 1."""

normal = partial(torch.randn, dtype=torch.float64)


def skewed(*shape: int) -> Tensor:
    return (normal(shape).square() - 1) / 2**0.5


def heavy(*shape: int) -> Tensor:
    """Student's t with 5 degrees of freedom, for each feature."""
    return normal(shape) * (3 / normal(5, *shape).square().sum(dim=0)) ** 0.5


def outliers(*shape: int) -> Tensor:
    """The same, with one random scale for all features of a sample."""
    return normal(shape) * (3 / normal(5, shape[0], 1).square().sum(dim=0)) ** 0.5


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def coverage(intervals: Iterable[Interval], truth: float) -> float:
    return float(np.mean([each.low <= truth <= each.high for each in intervals]))


def line(*cells: object) -> None:
    """Print a line of the table."""
    print("|", *(f"{c:.3f} |" if isinstance(c, float) else f"{c} |" for c in cells))


@pytest.mark.parametrize("n", [50, 128, 256, 1000])
@pytest.mark.parametrize("law", [normal, skewed, heavy, outliers])
def test_frechet_distance(law, n):
    estimates = [frechet_estimate(MEAN + SCALES * law(n, D), REFERENCE) for _ in range(200)]
    mean = np.mean([each.value for each in estimates])
    covered = coverage((each.interval for each in estimates), mean)
    # Any number of samples is enough to extrapolate one feature.
    forced = [Estimate(**{**each.model_dump(), "features": 1}) for each in estimates]
    limit = coverage((each.extrapolated for each in forced), TRUTH)
    name = "Gaussian" if law is normal else law.__name__
    line(f"Fréchet distance, {name}", f"{n}", covered, limit if n >= 4 * D else f"({limit:.3f})")
    given = np.mean([each.extrapolated is not None for each in estimates])
    assert 0.5 < given <= 1 if n == 4 * D else given == (n > 4 * D)
    if law is not outliers:
        assert covered >= 0.9
        assert limit >= 0.9 or n < 4 * D


@pytest.mark.parametrize(("d", "n"), [(128, 512), (128, 1024), (256, 1024)])
def test_frechet_distance_of_many_features(d, n):
    """Their interval is narrow, so the bias of second order decides if n → ∞ can be given."""
    scales, reference = torch.linspace(0.7, 1.3, d).double(), gaussian(torch.zeros(d), torch.eye(d))
    truth = (d * MEAN**2 + (scales - 1).square().sum()).item()
    estimates = [frechet_estimate(MEAN + scales * normal(n, d), reference) for _ in range(40)]
    covered = coverage((e.interval for e in estimates), np.mean([e.value for e in estimates]))
    forced = [Estimate(**{**each.model_dump(), "features": 1}) for each in estimates]
    limit = coverage((each.extrapolated for each in forced), truth)
    given = np.mean([each.extrapolated is not None for each in estimates])
    shown = limit if given > 0.5 else f"({limit:.3f})"
    line(f"Fréchet distance, Gaussian, {d} features", n, covered, shown)
    assert limit >= 0.9 if n == 1024 and d == 128 else limit < 0.9
    assert round(given) == (limit >= 0.9)


def test_shares():
    for share in (0.99, 0.999):
        estimates = [share_estimate(torch.rand(1000) < share) for _ in range(2000)]
        covered = coverage((each.interval for each in estimates), share)
        line(f"share of {share}", 1000, covered, "")
        assert covered >= 0.9


@pytest.mark.parametrize("d", [2, 16])
def test_recall(d):
    reference = normal(300, d)
    estimates = [recall(0.8 * normal(300, d) + 0.4, reference) for _ in range(100)]
    values = [each.value for each in estimates]
    covered = coverage((each.interval for each in estimates), np.mean(values))
    error = np.mean([each.standard_error for each in estimates]) / np.std(values)
    line(f"recall of {np.mean(values):.2f}; error {error:.1f} times too large", 300, covered, "")
    assert covered >= 0.92


@pytest.mark.parametrize("images", [360, 2000])
def test_memorization_of_a_perfect_generator(images):
    """Training images, test images and samples are of one distribution; all are drawn again."""
    shares = [
        memorization(normal(1000, 4), normal(200, 4), normal(images, 4)).share for _ in range(500)
    ]
    covered = coverage((share.interval for share in shares), 0.05)
    line(f"memorization, perfect generator, {images} test images", 1000, covered, "")
    assert np.mean([share.value for share in shares]) == pytest.approx(0.05, abs=0.002)
    assert 0.93 <= covered <= 0.99


def turned(x: Tensor) -> Tensor:
    """Other images of the same noise, as of another sampler: the same law, another distance."""
    return x.flip(1)


def related(x: Tensor) -> Tensor:
    return 0.9 * x + 0.19**0.5 * normal(x.shape)


def unrelated(x: Tensor) -> Tensor:
    return normal(x.shape)


@pytest.mark.parametrize("other", [turned, related, unrelated])
def test_paired_differences_of_equal_distributions(other):
    """The interval of the difference covers 0, whatever the dependence of the two cells."""
    differences = []
    for _ in range(200):
        x = normal(300, D)
        a, b = (frechet_estimate(MEAN + SCALES * each, REFERENCE) for each in (x, other(x)))
        differences.append(paired_difference(a, b))
    covered = coverage((each.interval for each in differences), 0.0)
    line(f"paired difference of equal distributions, noise {other.__name__}", 300, covered, "")
    assert covered == np.mean([each.p_value >= 0.05 for each in differences])
    assert covered >= 0.91


def blocks(means: np.ndarray) -> Estimate:
    """The mean of 20 blocks with these means."""
    without = (means.sum() - means) / 19
    return Estimate(value=means.mean(), samples=20, block_samples=(1,) * 20, without_block=without)


@pytest.mark.parametrize("trainings", [2, 3, 5])
def test_several_trainings(trainings):
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
    assert worst >= 0.935


@pytest.mark.parametrize(
    ("comparisons", "all_differ", "one_differs"), [(1, 3.5, 3.5), (9, 5.3, 7.5), (20, 6.7, 10.0)]
)
def test_the_difference_that_three_trainings_find(comparisons, all_differ, one_differs):
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
        assert np.mean(found) == pytest.approx(0.8, abs=0.06)
