"""The results of a cell, with what they were computed from, and the numbers that tables show."""

import math
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal, NamedTuple, cast

from pydantic import Field

from psld.config.settings import MadeRecord, Settings, read_record
from psld.metrics.estimate import CONFIDENCE, Estimate, Interval
from psld.models.manifest import Imported

Show = Literal["value", "nfe", "class_accuracy"]
"""What an entry of a table shows; NUMBER_KINDS describes each."""


class Weights(Settings, extra="ignore"):
    """The trained weights behind a result."""

    name: str
    weights_sha256: str
    dataset_digest: str | None
    step: int | None
    imported: Imported | None = None
    """The checkpoint that they come from; null for a training."""
    init: dict[str, str] | None = None
    """The model from which the training started, and its `weights_sha256`."""
    saved: bool = Field(default=False, exclude_if=lambda saved: not saved)
    """True if `psld.save` wrote them: no command trained them."""
    git_revision: str | None = None
    """Revision of the code of psld that trained them."""
    settings: dict[str, Any]
    """The settings that decide the weights."""


class CellResult(MadeRecord):
    """One metric of the first `samples` images of a cell, or of images of others: no model."""

    record: str
    """The digest of what decides the result: a table shows the results of its own records."""
    metric: dict[str, Any]
    estimate: Estimate
    """The value, with what its interval needs."""
    void: str | None = None
    """The reason why the value has no meaning, and no table shows it; null if it has one."""
    class_accuracy: Estimate | None
    """Share of guided samples whose class the metric's classifier recognizes."""
    nfe: float | None = None
    """Network evaluations per image, counted."""
    sampling_seconds: float | None = None
    sampling_device: str | None = None
    floor: float | None
    """The metric of real images that are not in the reference; null without a test split."""
    floor_samples: int | None = None
    noise: float | None
    """The metric of pure noise; null if the reference is no prepared dataset."""
    nearest: tuple[tuple[int, int], ...] | None
    """For memorization: the nearest pairs of sample and training image; null for other metrics."""
    extractor_test_accuracy: float | None
    reference_samples: int | None
    """Null for statistics: others publish them without this number."""
    reference_sha256: str
    """SHA-256 of the reference's features; of images or statistics if it is no dataset."""
    kept_sha256: str | None
    """SHA-256 of the file next to the results: what they were computed from."""
    model: Weights | None = None
    guide: Weights | None = None
    sampler: dict[str, Any] | None = None
    seed: int | None = None
    start_sha256: str | None = None
    """The start of the samples, which is made of training images; null for the prior."""
    gaussians: int | None = None
    """K of that start, of all images."""
    images: str | None = None
    """Path of images of others; null for a model's, and for a tensor."""
    images_sha256: str | None = None
    reference_estimate: Estimate | None = None
    """The value with the interval for other images of the reference, and these images."""

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        """Show the numbers alone; `model_dump()` has the rest."""
        yield "metric", self.metric["name"]
        for name in ("value", "samples", "interval", "extrapolated"):
            yield name, getattr(self, name)

    @property
    def value(self) -> float:
        return self.estimate.value

    @property
    def samples(self) -> int:
        return self.estimate.samples

    @property
    def interval(self) -> Interval:
        """The value with the 95 % interval for other images of the same number."""
        return self.estimate.interval

    @property
    def held_out(self) -> str:
        """The split that is not the reference, of which `floor` is."""
        return "training split" if self.metric["reference_split"] == "test" else "test split"

    @property
    def extrapolated(self) -> Interval | None:
        """A Fréchet distance of infinitely many images, if there are enough to say."""
        return self.estimate.extrapolated


class ModelResult(CellResult):
    """One metric of a cell: its images are a model's. For type checkers; results are cast to it."""

    nfe: float = Field(default=...)
    sampling_seconds: float = Field(default=...)
    sampling_device: str = Field(default=...)
    noise: float = Field(default=...)
    model: Weights = Field(default=...)
    sampler: dict[str, Any] = Field(default=...)
    seed: int = Field(default=...)


class NumberKind(NamedTuple):
    read: Callable[[ModelResult], Estimate | float]
    """Returns the number of a result; an Estimate has an interval."""
    decimals: int = 2
    """The fewest decimals to print; more if the error needs them."""
    from_features: bool = True
    """False for a cost of sampling, to which a band's absolute width does not apply."""
    of_classes: bool = False
    """True if it needs samples guided to a class, and a metric with a classifier."""


NUMBER_KINDS: dict[Show, NumberKind] = {
    "value": NumberKind(lambda result: result.estimate),
    "nfe": NumberKind(lambda result: result.nfe, decimals=0, from_features=False),
    "class_accuracy": NumberKind(
        lambda result: cast(Estimate, result.class_accuracy), of_classes=True
    ),
}


class CellResults(Settings):
    """All metrics of a cell, from one pass over its shards."""

    results: tuple[CellResult, ...]

    @classmethod
    def read(cls, path: str | Path) -> "CellResults":
        """Read a record. Raises UserError if it is damaged or from another version."""
        remedy = "delete it and evaluate again, or all cells: snakemake GRID --forcerun evaluate"
        return read_record(cls, path, f"{path}: not the metrics of a cell; {remedy}")

    @classmethod
    def find(cls, path: str | Path, record: str) -> ModelResult | None:
        """Return the result of a record; None if there is none yet. A file is read once."""
        if not Path(path).exists():
            return None
        status = Path(path).stat()  # A file that is written again is another one.
        return _by_record(path, status.st_dev, status.st_ino, status.st_mtime_ns).get(record)


@cache
def _by_record(path: str | Path, *_version: int) -> dict[str, ModelResult]:
    return {each.record: cast(ModelResult, each) for each in CellResults.read(path).results}


# -- bands -----------------------------------------------------------------------------------------

POWER = 0.8
"""The probability with which `samples_to_decide` decide."""


def place_in_band(
    interval: Interval, low: float, high: float
) -> Literal["inside", "outside", "overlap"]:
    """Compare an interval, or a number as an interval of width 0, with the band [low, high].

    Only a whole interval is `inside` or `outside`.
    """
    if low <= interval.low and interval.high <= high:
        return "inside"
    return "outside" if interval.high < low or interval.low > high else "overlap"


def samples_to_decide(
    interval: Interval, samples: int, low: float, high: float, fixed: float = 0.0
) -> int | None:
    """Return the number of *additional* samples that decide if a value is in the band [low, high].

    It is 0 if the interval does not overlap the band in part, and None if no number is enough. The
    half-width w of n samples shrinks as 1/√n; v of training again, `fixed`, does not. With δ the
    distance of the value from the nearer end of the band, the interval of n' samples in all clears
    this end with the probability P if

        √(w² n / n' + v²) = δ z_0.975 / (z_0.975 + z_P),        z_0.975 = 1.96

    A decision has a power of 80 %: outside the band one end has to be cleared, with z_0.8 = 0.84.
    Inside, both have to be, each with 90 %: z_0.9 = 1.28.

    Get the samples as further seeds: a larger n in one cell would change its bias. Choose the
    number before: to stop at the first verdict makes more of them wrong.
    """
    if place_in_band(interval, low, high) != "overlap":
        return 0
    power = (1 + POWER) / 2 if low <= interval.value <= high else POWER
    z, z_power = map(NormalDist().inv_cdf, ((1 + CONFIDENCE) / 2, power))
    distance = min(abs(interval.value - end) for end in (low, high)) * z / (z + z_power)
    if distance <= fixed:
        return None
    narrows = max(interval.half_width**2 - fixed**2, 0.0)
    return max(1, math.ceil(samples * narrows / (distance**2 - fixed**2)) - samples)
