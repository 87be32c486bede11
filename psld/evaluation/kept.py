"""What an evaluation keeps of images: features, or their statistics, and what the images cost."""

from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from psld.config.parts import UnknownPart
from psld.evaluation.settings import Measurement
from psld.metrics.features import Features, FeatureStatistics
from psld.utils.errors import UserError
from psld.utils.tensors import load_tensors, save_tensors


class Cost(NamedTuple):
    """The cost of one shard."""

    images: int
    nfe: int
    seconds: float
    device: str


@dataclass(frozen=True)
class Gathered:
    """The features of images and the facts of their shards, for all results of an evaluation."""

    samples: dict[tuple[str, int], Features]
    """The first images, by `metric.features` and their number."""
    labels: Tensor | None
    """int64, n: the class that each image was guided to; None without guidance to a class."""
    costs: list[Cost]
    moments: dict[tuple[str, int], FeatureStatistics] = field(default_factory=dict)
    """Kept of images whose features are too many to keep."""

    def has(self, measurement: Measurement) -> bool:
        """Check if there are features for a measurement, and the code of its measure."""
        is_known = not isinstance(measurement.metric.measure, UnknownPart)
        return is_known and measurement.group in self.samples

    def recomputes(self, measurement: Measurement) -> bool:
        """Check if there are features, or mean and covariance for the value of a distance."""
        of_moments = measurement.metric.measure.of_moments
        return self.has(measurement) or (of_moments and measurement.group in self.moments)

    def spent(self, samples: int) -> dict[str, Any]:
        """Return the fields of a result that say what its images cost; none if it is unknown."""
        firsts = accumulate((cost.images for cost in self.costs), initial=0)
        pairs = zip(self.costs, firsts, strict=False)
        costs = [cost for cost, first in pairs if first < samples]
        if not costs:
            return {}
        images = sum(cost.images for cost in costs)
        return {
            "nfe": sum(cost.nfe * cost.images for cost in costs) / images,
            "sampling_seconds": round(sum(cost.seconds for cost in costs), 3),
            "sampling_device": ", ".join(sorted({cost.device for cost in costs})),
        }


def save_kept(path: str | Path, gathered: Gathered, largest: int) -> str:
    """Write a file from which results can be computed again, and return its SHA-256.

    It has labels, costs, and features; their mean and covariance if there are more than `largest`.
    """
    tensors = {} if gathered.labels is None else {"labels": gathered.labels}
    for (name, n), features in gathered.samples.items():
        kept = features if features.values.shape[1] <= largest else features.total
        tensors |= {f"{name}/{n}/{key}": each for key, each in kept.tensors().items()}
    return save_tensors(path, "evaluation", tensors, {"costs": gathered.costs})


def load_kept(path: str | Path, sha256: str) -> Gathered:
    """Read what `save_kept` wrote, by the SHA-256 that it returned.

    Raises UserError if the file is missing or damaged, or has another number of features.
    """
    stored = load_tensors(path, "evaluation", "evaluate the cell again", sha256)
    tensors = stored.tensors()
    labels = tensors.pop("labels", None)
    groups: dict[tuple[str, int], dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, n, what = key.split("/")
        groups.setdefault((name, int(n)), {})[what] = tensor
    samples, moments = {}, {}
    for (name, n), each in groups.items():
        if "mean" in each:
            moments[name, n] = FeatureStatistics.of_tensors(n, **each)
            continue
        if wrong := {len(tensor) for tensor in each.values()} - {n}:
            raise UserError(f"{path}: {name}: features of {wrong.pop()} samples, not of {n}")
        samples[name, n] = Features(**each)
    costs = [Cost(*cost) for cost in stored.origin["costs"]]
    return Gathered(samples, labels, costs, moments)
