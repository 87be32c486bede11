"""The results of a grid's cells: all metrics of each cell."""

from pathlib import Path
from typing import Any

from psld.config.settings import MadeRecord, Settings, read_record
from psld.grid.places import Evaluation
from psld.grid.resolved import Grid
from psld.grid.tables import Show
from psld.metrics.estimate import Estimate, Interval
from psld.metrics.settings import LikelihoodSettings


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


class LikelihoodResult(MadeRecord):
    """The bits per dimension of a model: the mean over images, with its 95 % t-interval."""

    bits_per_dimension: float
    """Without momentum an estimate of the likelihood, with momentum an upper bound on it."""
    low: float
    high: float
    measured: int
    """Number of images."""
    likelihood: LikelihoodSettings
    evaluations: float
    """Network evaluations per image and draw, counted."""
    gradients: float
    """Vector-Jacobian products per image and draw."""
    seconds: float
    device: str
    dataset_digest: str
    """The dataset whose images were measured."""
    model: Weights

    @property
    def interval(self) -> Interval:
        return Interval(self.bits_per_dimension, self.low, self.high)

    @classmethod
    def read(cls, path: str | Path) -> "LikelihoodResult":
        """Read a record. Raises UserError if it is missing, damaged or from another version."""
        remedy = "delete it and measure again, or all models: snakemake GRID --forcerun likelihood"
        return read_record(cls, path, f"{path}: not the likelihood of a model; {remedy}")


def read_result(grid: Grid, cells: Path, evaluation: Evaluation) -> CellResult | None:
    """Read a metric of one cell; None if it does not exist yet or has other settings.

    Args:
        cells: folder of the grid's metrics files, MODEL/SAMPLER.json.
    """
    path = cells / f"{evaluation.cell}.json"
    if not path.exists():
        return None
    results = CellResults.read(path).results
    return next((result for result in results if _is_of(grid, evaluation, result)), None)


def _is_of(grid: Grid, evaluation: Evaluation, result: CellResult) -> bool:
    """Check that a result was made with the grid's current settings."""
    sampler = grid.samplers[evaluation.sampler]
    wanted = (
        grid.models[evaluation.model].settings,
        sampler.guide and grid.guides[sampler.guide].settings,
        sampler.settings,
        grid.metric(evaluation.metric).identity(),
        grid.file.seed_of(evaluation.sampler),
        evaluation.samples,
    )
    guide = result.guide and result.guide.settings
    made = (result.model.settings, guide, result.sampler, result.metric, result.seed)
    return wanted == (*made, result.samples)


def read_likelihood(grid: Grid, cells: Path, model: str) -> LikelihoodResult | None:
    """Read a model's likelihood; None if it does not exist yet or has other settings."""
    path = cells / model / "likelihood.json"
    if not path.exists():
        return None
    result = LikelihoodResult.read(path)
    wanted = (grid.models[model].settings, grid.likelihood)
    return result if wanted == (result.model.settings, result.likelihood) else None
