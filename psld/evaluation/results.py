"""The results of an evaluation, the numbers that tables show, and comparisons with bands."""

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
"""The kind of number that an entry of a table shows; see NUMBER_KINDS."""


class Weights(Settings, extra="ignore"):
    """The trained weights behind a result."""

    name: str
    weights_sha256: str
    dataset_digest: str | None
    step: int | None
    imported: Imported | None = None
    """The checkpoint from which the weights were imported; null for trained weights."""
    init: dict[str, str] | None = None
    """The name and the `weights_sha256` of the pretrained model that initialized the training."""
    saved: bool = Field(default=False, exclude_if=lambda saved: not saved)
    """True if the weights were written by `psld.save`, not trained by a command."""
    git_revision: str | None = None
    """The Git revision of psld with which the weights were trained."""
    settings: dict[str, Any]
    """The settings that determine the weights."""


class CellResult(MadeRecord):
    """A metric of the first `samples` images of a cell, or of external images without a model."""

    record: str
    """Digest of everything that determines the result. A table shows only results whose digests
    match the table's cells."""
    metric: dict[str, Any]
    estimate: Estimate
    """The value, with the data for its interval."""
    void: str | None = None
    """The reason why the value is meaningless and not shown in tables; null for a valid value."""
    class_accuracy: Estimate | None
    """The fraction of the samples that the metric's classifier assigns to the class of the
    guidance."""
    nfe: float | None = None
    """Measured number of network evaluations per image."""
    sampling_seconds: float | None = None
    sampling_device: str | None = None
    floor: float | None
    """The metric of held-out real images; null without a test split."""
    floor_samples: int | None = None
    noise: float | None
    """The metric of pure noise; null if the reference is not a prepared dataset."""
    nearest: tuple[tuple[int, int], ...] | None
    """For memorization: the nearest pairs of sample and training image; null for other metrics."""
    extractor_test_accuracy: float | None
    reference_samples: int | None
    """The number of images in the reference; null for published statistics without this number."""
    reference_sha256: str
    """SHA-256 of the reference's features; for an external reference, SHA-256 of its images or of
    its statistics."""
    kept_sha256: str | None
    """SHA-256 of the file with the features, which is next to the results."""
    model: Weights | None = None
    guide: Weights | None = None
    sampler: dict[str, Any] | None = None
    seed: int | None = None
    start_sha256: str | None = None
    """Digest of the initial distribution from which the samples start; null for the prior."""
    gaussians: int | None = None
    """Number K of Gaussians in the initial distribution for all classes together; null for the
    prior."""
    images: str | None = None
    """Path of external images; null for a cell or a tensor."""
    images_sha256: str | None = None
    reference_estimate: Estimate | None = None
    """The value, with an interval that treats the reference images as random, and the evaluated
    images as fixed."""

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        """Show only the numbers; `model_dump()` has all fields."""
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
        """The value, with the 95 % interval for another set of equally many images."""
        return self.estimate.interval

    @property
    def held_out(self) -> str:
        """The held-out split, which is not the reference; `floor` is the metric of its images."""
        return "training split" if self.metric["reference_split"] == "test" else "test split"

    @property
    def extrapolated(self) -> Interval | None:
        """The Fréchet distance extrapolated to infinitely many images; None for too few images."""
        return self.estimate.extrapolated


class ModelResult(CellResult):
    """A metric of a cell, whose images are samples of a model.

    This class is only for type checkers: a CellResult is cast to it.
    """

    nfe: float = Field(default=...)
    sampling_seconds: float = Field(default=...)
    sampling_device: str = Field(default=...)
    noise: float = Field(default=...)
    model: Weights = Field(default=...)
    sampler: dict[str, Any] = Field(default=...)
    seed: int = Field(default=...)


class NumberKind(NamedTuple):
    read: Callable[[ModelResult], Estimate | float]
    """Returns the number from a result; an Estimate also has an interval."""
    decimals: int = 2
    """The smallest number of decimals to print. Numbers with small errors get more decimals."""
    from_features: bool = True
    """False for a cost of sampling. The absolute width of a band does not apply to costs."""
    of_classes: bool = False
    """True if the number requires guidance to classes and a metric with a classifier."""


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
        """Read a file of results. Raises UserError if it is damaged or from another version."""
        remedy = "delete it and evaluate again; for all cells: snakemake GRID --forcerun evaluate"
        return read_record(cls, path, f"{path}: not the metrics of a cell; {remedy}")

    @classmethod
    def find(cls, path: str | Path, record: str) -> ModelResult | None:
        """Return the result with this `record`; None without such a result. Files are cached."""
        if not Path(path).exists():
            return None
        status = Path(path).stat()  # The key of the cache changes when the file is replaced.
        return _by_record(path, status.st_dev, status.st_ino, status.st_mtime_ns).get(record)


@cache
def _by_record(path: str | Path, *_version: int) -> dict[str, ModelResult]:
    return {each.record: cast(ModelResult, each) for each in CellResults.read(path).results}


# -- bands -----------------------------------------------------------------------------------------

POWER = 0.8
"""The probability that the number of samples from `samples_to_decide` allows a decision."""


def place_in_band(
    interval: Interval, low: float, high: float
) -> Literal["inside", "outside", "overlap"]:
    """Compare an interval with the band [low, high].

    The result is `inside` or `outside` only if the complete interval is inside or outside. For a
    number without an error, pass an interval of width 0.
    """
    if low <= interval.low and interval.high <= high:
        return "inside"
    return "outside" if interval.high < low or interval.low > high else "overlap"


def samples_to_decide(
    interval: Interval, samples: int, low: float, high: float, fixed: float = 0.0
) -> int | None:
    """Return the number of *additional* samples that decide if a value is in the band [low, high].

    Return 0 if the interval is already inside or outside of the band, and None if no number of
    samples is enough. The half-width w of the interval for n samples decreases as 1/√n, whereas the
    half-width v for retraining, `fixed`, stays constant. Let δ be the distance of the value from
    the nearer end of the band. With n' samples in total, the interval excludes this end with
    probability P if

        √(w² n / n' + v²) = δ z_0.975 / (z_0.975 + z_P),        z_0.975 = 1.96

    The decision has a power of 80 %. If the value is outside of the band, the interval must exclude
    one end, with P = 80 %, z_0.8 = 0.84. If the value is inside, the interval must exclude both
    ends, each with P = 90 %, z_0.9 = 1.28.

    Draw the additional samples with additional seeds, because a larger n in one cell changes the
    bias of its metric. Choose the number of samples in advance, because stopping at the first
    decision increases the error rate.
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
