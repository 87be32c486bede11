"""The results of a cell: all its metrics, with what they were computed from."""

from pathlib import Path
from typing import Any, Literal

from psld.config.settings import MadeRecord, Settings, read_record
from psld.metrics.estimate import Estimate

Show = Literal["value", "nfe", "class_accuracy"]
"""The numbers of a result that a table can show."""


class Weights(Settings):
    """The trained weights behind a result."""

    name: str
    weights_sha256: str
    dataset_digest: str | None
    step: int | None
    settings: dict[str, Any]
    """The settings that decide the weights."""


class CellResult(MadeRecord):
    """One metric of the first `samples` images of a cell."""

    record: str
    """The digest of what decides the result: a table shows the results of its own records."""
    metric: dict[str, Any]
    """Settings of the metric."""
    estimate: Estimate
    """The value, with what its interval needs."""
    class_accuracy: Estimate | None
    """Share of guided samples whose class the metric's classifier recognizes."""
    nfe: float
    """Network evaluations per image, counted."""
    sampling_seconds: float
    sampling_device: str
    floor: float | None
    """The metric of real images that are not in the reference; null without a test split."""
    noise: float
    """The metric of pure noise."""
    nearest: tuple[tuple[int, int], ...] | None
    """For memorization: the nearest pairs of sample and training image; null for other metrics."""
    extractor_test_accuracy: float | None
    reference_samples: int
    reference_sha256: str
    """SHA-256 of the reference's features."""
    kept_sha256: str
    """SHA-256 of the file next to the results: what they were computed from."""
    model: Weights
    guide: Weights | None
    sampler: dict[str, Any]
    """Settings of the sampler."""
    seed: int

    @property
    def value(self) -> float:
        """The metric over all samples."""
        return self.estimate.value

    @property
    def samples(self) -> int:
        return self.estimate.samples

    def estimate_of(self, show: Show) -> Estimate | None:
        """Return a number with the error of drawing samples; None for a count."""
        return {"value": self.estimate, "class_accuracy": self.class_accuracy}.get(show)

    def number(self, show: Show) -> float:
        estimate = self.estimate_of(show)
        return estimate.value if estimate else getattr(self, show)


class CellResults(Settings):
    """All metrics of a cell, from one pass over its shards."""

    results: tuple[CellResult, ...]

    @classmethod
    def read(cls, path: str | Path) -> "CellResults":
        """Read a record. Raises UserError if it is damaged or from another version."""
        remedy = "delete it and evaluate again, or all cells: snakemake GRID --forcerun evaluate"
        return read_record(cls, path, f"{path}: not the metrics of a cell; {remedy}")

    def of(self, record: str) -> CellResult | None:
        """Return the result of a record; None if there is none."""
        return next((result for result in self.results if result.record == record), None)
