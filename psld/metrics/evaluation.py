"""The evaluation of images by several metrics, from one pass over them.

`evaluate` serves the job of a cell, `psld evaluate images=`, `psld verify` and the library. They
differ in their source: a cell's shards, or what was kept of them (`psld.metrics.cells`), or images
of others (`psld.metrics.images`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from psld.config.settings import MadeRecord, write_record
from psld.metrics.features import Extractor, Features, batches_of, gather, share_estimate
from psld.metrics.measure import (
    Reference,
    measure,
    measure_memorization,
    measure_reference,
    scale,
)
from psld.metrics.reference_folder import Basis
from psld.metrics.results import CellResult, CellResults
from psld.metrics.settings import Measurement
from psld.sampling.shards import Shard
from psld.utils.device import provenance
from psld.utils.errors import UserError
from psld.utils.tensors import read_tensors, save_tensors

NEAREST_PAIRS = 8
"""The number of nearest pairs of sample and training image in a result."""

NUMBERS = {"estimate", "nearest", "class_accuracy", "floor", "noise"}
"""The fields of a cell's result that are computed from features."""


class Cost(NamedTuple):
    """The cost of one shard."""

    images: int
    nfe: int
    seconds: float
    device: str


class Part(NamedTuple):
    """Some of the images of a source, in their order."""

    images: np.ndarray
    """uint8, n×C×H×W."""
    labels: np.ndarray | None = None
    """int64, n: the class that each was guided to; None without guidance, and if it is unknown."""
    costs: Sequence[Cost] = ()
    """Those of the shards that hold them; none if they are unknown."""

    @classmethod
    def of(cls, shard: Shard) -> "Part":
        cost = Cost(len(shard.images), shard.nfe, shard.seconds, shard.device)
        return cls(shard.images, shard.labels, [cost])

    @classmethod
    def joined(cls, parts: Sequence["Part"]) -> "Part":
        """Return the images of several shards of one cell."""
        labels = [part.labels for part in parts if part.labels is not None]
        return cls(
            np.concatenate([part.images for part in parts]),
            np.concatenate(labels) if labels else None,
            [cost for part in parts for cost in part.costs],
        )

    def first(self, n: int) -> "Part":
        """Return the first n images."""
        firsts = accumulate((cost.images for cost in self.costs), initial=0)
        pairs = [(c, n - first) for c, first in zip(self.costs, firsts, strict=False) if first < n]
        costs = [cost._replace(images=min(cost.images, left)) for cost, left in pairs]
        labels = None if self.labels is None else self.labels[:n]
        return Part(self.images[:n], labels, costs)


@dataclass(frozen=True)
class Gathered:
    """The features of images and the facts of their shards, for all results."""

    samples: dict[tuple[str, int], Features]
    """The first images, by `metric.features` and their number."""
    labels: Tensor | None
    """int64, n: the class that each image was guided to; None without guidance to a class."""
    costs: list[Cost]

    def numbers(
        self,
        measurement: Measurement,
        reference: Reference,
        device: torch.device | str = "cpu",
    ) -> dict[str, Any]:
        """Return the fields of a result that are computed from features."""
        metric = measurement.metric
        samples = self.samples[metric.features, measurement.samples]
        numbers = scale(metric, reference, device) | {"nearest": None, "class_accuracy": None}
        if metric.measure.kind == "memorization":
            memorized = measure_memorization(metric, samples, reference, device)
            numbers |= {"estimate": memorized.share, "nearest": memorized.pairs(NEAREST_PAIRS)}
        else:
            numbers["estimate"] = measure(metric, samples, reference, device)
        if samples.numbers is not None:  # images of others
            numbers["reference_estimate"] = measure_reference(metric, samples, reference, device)
        if self.labels is not None and metric.extractor.kind == "classifier":
            answers = samples.logits.argmax(dim=1)
            numbers["class_accuracy"] = share_estimate(answers == self.labels[: len(samples)])
        return numbers

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


@dataclass(frozen=True)
class Source:
    """What is measured: images, or what an evaluation has kept of them."""

    facts: dict[str, Any]
    """The fields of each result about the images."""
    digest: Callable[[str], str]
    """Returns the digest of what decides a result but for the metric, from its reference's."""
    parts: Iterable[Part] = ()
    numbers: Tensor | None = None
    """`distinct_numbers` of images of others; None for a cell's."""
    silent: bool | None = None
    """Show no progress bars; None shows them on a terminal."""
    kept: Gathered | None = None
    """What was kept in place of the images."""
    stated: Sequence[CellResult] = ()
    """The results that were kept with it: a new one takes over what says how it was computed, and
    the numbers if the features of the reference are missing."""

    def gather(
        self, extractors: Mapping[str, Extractor], measurements: Sequence[Measurement]
    ) -> Gathered:
        """Read each image once, and extract its features with each extractor.

        Memory for 50,000 samples with Inception's features and logits is 0.6 GB.
        """
        found: dict[str, list[Features]] = {name: [] for name in extractors}
        batch_sizes = {m.metric.features: m.metric.batch_size for m in measurements}
        labels, costs = [], []
        for part in self.parts:
            for name, extractor in extractors.items():
                batches = batches_of(part.images, batch_sizes[name])
                found[name].append(gather(extractor, batches, name, len(part.images), self.silent))
            if part.labels is not None:
                labels.append(torch.from_numpy(part.labels))
            costs += part.costs
        features = {name: Features.joined(each) for name, each in found.items()}
        groups = [(m.metric.features, m.samples) for m in measurements]
        samples = {
            (name, n): replace(features[name].first(n), numbers=self.numbers) for name, n in groups
        }
        return Gathered(samples, torch.cat(labels) if labels else None, costs)


def evaluate(
    source: Source,
    measurements: Sequence[Measurement],
    bases: Mapping[str, Basis],
    device: torch.device | str = "cpu",
    output: str | Path | None = None,
    keep: int = 512,
) -> CellResults:
    """Measure images, and write the results and what they come from if `output` is a path.

    Args:
        bases: what the images are compared with, by `metric.features`.
        keep: the most features of an extractor for which they are kept.

    Raises UserError if images are missing or damaged, or too few for a metric.
    """
    gathered = source.kept
    if gathered is None:
        extractors = {name: basis.extractor for name, basis in bases.items()}
        gathered = source.gather(extractors, measurements)
    kept = save_kept(kept_file(output), gathered, keep) if output else None
    made, results = {"kept_sha256": kept, **provenance()}, []
    for measurement, stated in zip(measurements, source.stated or repeat(None), strict=False):
        metric = measurement.metric
        basis = bases[metric.features]
        facts = basis.facts(metric.reference_split) | gathered.spent(measurement.samples)
        if stated:
            made = stated.model_dump(include={"kept_sha256", *MadeRecord.model_fields})
            if stated.floor_samples is None:  # Earlier versions did not write it.
                facts["floor_samples"] = None
        if basis.reference:
            numbers = gathered.numbers(measurement, basis.reference, device)
        else:
            numbers = stated.model_dump(include=NUMBERS)
        result = CellResult(
            record=measurement.digest(source.digest(facts["reference_sha256"])),
            metric=metric.identity(),
            **source.facts,
            **facts,
            **numbers,
            **made,
        )
        results.append(result)
    record = CellResults(results=tuple(results))
    if output:
        write_record(output, record)
    return record


# -- what is kept ---------------------------------------------------------------------------------


def kept_file(output: str | Path) -> Path:
    """Return the path of what is kept, next to the results."""
    return Path(output).with_suffix(".safetensors")


def save_kept(path: str | Path, gathered: Gathered, largest: int) -> str:
    """Write a file from which a cell's results can be computed again, and return its SHA-256.

    It has the features of extractors with at most `largest` of them, the costs of the shards, and
    the labels.
    """
    tensors = {} if gathered.labels is None else {"labels": gathered.labels}
    for (name, n), features in gathered.samples.items():
        if features.values.shape[1] <= largest:
            tensors |= {f"{name}/{n}/{key}": each for key, each in features.tensors().items()}
    return save_tensors(path, "evaluation", tensors, {"costs": gathered.costs})


def load_kept(path: str | Path, sha256: str) -> Gathered:
    """Read what `save_kept` wrote, by the SHA-256 that it returned.

    Raises UserError if the file is missing or damaged, or has another number of features.
    """
    stored = read_tensors(path, "evaluation", "evaluate the cell again", sha256)
    tensors = stored.tensors()
    labels = tensors.pop("labels", None)
    groups: dict[tuple[str, int], dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, n, what = key.split("/")
        groups.setdefault((name, int(n)), {})[what] = tensor
    samples = {group: Features.from_tensors(each) for group, each in groups.items()}
    for (name, n), features in samples.items():
        if any(len(tensor) != n for tensor in features.tensors().values()):
            raise UserError(f"{path}: {name}: features of {len(features)} samples, not of {n}")
    return Gathered(samples, labels, [Cost(*cost) for cost in stored.origin["costs"]])
