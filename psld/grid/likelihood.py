"""The likelihood of a model: bits per dimension of a split, with its interval, as a record."""

from pathlib import Path
from typing import Any

from psld.config.settings import Settings, parse
from psld.grid.results import Weights
from psld.metrics.settings import LikelihoodSettings
from psld.utils.errors import UserError
from psld.utils.files import read_json, write_json


class LikelihoodResult(Settings):
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
    versions: dict[str, str | None]
    precision: dict[str, Any]
    git_revision: str | None

    def write(self, path: str | Path) -> None:
        """Write the record atomically."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def read(cls, path: str | Path) -> "LikelihoodResult":
        """Read a record. Raises UserError if it is missing, damaged or from another version."""
        content = read_json(path)
        wrong = f"{path}: not the likelihood of a model; delete it and measure it again"
        if not isinstance(content, dict):
            raise UserError(wrong)
        return parse(cls, content, where=wrong)
