"""The evaluation of images of others: a folder, a zip, an .npz or a tensor.

They are compared with a dataset of ours, with other images, or with statistics that others publish.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from psld.config.settings import parse, write_record
from psld.data.images import located, read_images, read_statistics
from psld.data.picture import check_images
from psld.data.store import ImageStore, truncated
from psld.metrics.classifier import read_extractor_manifest
from psld.metrics.evaluation import Gathered, save_kept
from psld.metrics.features import (
    Extractor,
    Features,
    FeatureStatistics,
    batches_of,
    distinct_numbers,
    gather,
)
from psld.metrics.measure import Reference, measure_reference
from psld.metrics.reference_folder import (
    FEATURES,
    REMEDY,
    check_reference,
    extractor_for,
    load_reference,
)
from psld.metrics.results import CellResult, CellResults
from psld.metrics.settings import Measurement, MetricSettings, foreign_digest
from psld.utils.device import provenance, use_device
from psld.utils.errors import UserError
from psld.utils.tensors import digest_of_arrays

Images = str | Path | np.ndarray
"""A path that `read_images` reads, or uint8 N×C×H×W."""


class Basis(NamedTuple):
    """What images are compared with, in the features of one extractor."""

    extractor: Extractor
    reference: Reference
    facts: Callable[[str], dict[str, Any]]
    """The fields of a result about the reference, by split."""
    shape: tuple[int, ...] | None = None
    """C×H×W of the reference's images, if they are known."""


def evaluate_images(
    images: Images,
    metrics: Sequence[str],
    reference: Images | None = None,
    *,
    dataset: str | None = None,
    extractor: str | Path | None = None,
    samples: int | None = None,
    output: str | None = None,
    keep: int = 512,
    device: str = "auto",
    choose: Callable[[str], torch.device] = use_device,
    silent: bool | None = None,
) -> CellResults:
    """Measure images by some metrics, and write the results if `output` is a path.

    The arguments are those of `EvaluateImagesSettings`. Metrics with equal features share a pass.
    `choose` returns the device; a command takes it for itself. `silent`: no progress bars; None
    shows them on a terminal.

    Raises UserError if files are missing or damaged, if there are too few images, or if they have
    another size than those of the reference.
    """
    composed = [compose_metric(name) for name in metrics]  # refuses a wrong name before the work
    if dataset and not is_dataset(dataset):
        raise UserError(
            f"dataset={dataset}: no data/{dataset}.h5; run psld prepare dataset={dataset}"
        )
    path, images = _read(images, silent)
    where, chosen = path or "images", choose(device)
    if len(images) < (least := samples or 3):
        raise UserError(f"{where}: {len(images)} images; at least {least} are needed")
    images = images[:samples]
    numbers = _numbers(where, images)
    count, sha256, shape = len(images), _digest(images), images.shape[1:]
    measured, bases, gathered = [], {}, {}
    for metric in composed:
        folder = extractor if len(composed) == 1 else None
        if metric.extractor.kind == "classifier":
            folder = extractor or (dataset and f"features/{dataset}/{metric.features}")
            if folder:  # Its manifest has the settings that it was trained with.
                trained = read_extractor_manifest(folder).extractor
                metric = metric.model_copy(update={"extractor": trained})
        measured.append(Measurement(metric=metric, samples=count))
        if (name := metric.features) not in bases:
            basis = bases[name] = _basis(metric, reference, dataset, folder, chosen, silent)
            if basis.shape not in (None, shape):
                sizes = ["×".join(map(str, each)) for each in (shape, basis.shape)]
                raise UserError(f"{where}: images of {sizes[0]}; the reference has {sizes[1]}")
            features = _features(basis.extractor, metric, images, name, silent=silent)
            gathered[name, count] = replace(features, numbers=numbers)
    whole = Gathered(gathered, labels=None, costs=[])
    kept = save_kept(Path(output).with_suffix(".safetensors"), whole, keep) if output else None

    def result(measurement: Measurement) -> CellResult:
        metric, features = measurement.metric, gathered[measurement.metric.features, count]
        basis = bases[metric.features]
        facts = basis.facts(metric.reference_split)
        decides = foreign_digest(path or sha256, dataset or facts["reference_sha256"])
        return CellResult(
            record=measurement.digest(decides),
            metric=metric.identity(),
            reference_estimate=measure_reference(metric, features, basis.reference, chosen),
            kept_sha256=kept,
            images=path,
            images_sha256=sha256,
            **whole.numbers(measurement, basis.reference, chosen),
            **facts,
            **provenance(),
        )

    record = CellResults(results=tuple(map(result, measured)))
    if output:
        write_record(output, record)
    return record


def is_dataset(name: str) -> bool:
    """Check if a dataset of this name was prepared here, or has features."""
    return Path(f"data/{name}.h5").exists() or Path(f"features/{name}").exists()


def compose_metric(name: str) -> MetricSettings:
    """Return the metric of configs/metric/NAME.yaml. Raises UserError if there is none."""
    # Hydra takes a third of a second to import, and no job of a model's cell needs it.
    from psld.config.compose import compose_content

    content = compose_content("reference", [f"metric={name}"], f"metric={name}")
    return parse(MetricSettings, content["metric"], f"metric={name}")


def _basis(
    metric: MetricSettings,
    reference: Images | None,
    dataset: str | None,
    extractor: str | Path | None,
    device: torch.device,
    silent: bool | None,
) -> Basis:
    """Load the extractor and the reference. Without kept features, read a dataset's images."""
    if dataset is not None:
        folder = Path(f"features/{dataset}/{metric.features}/reference")
        reference = folder if (folder / FEATURES).exists() else f"data/{dataset}.h5"
    path = None if isinstance(reference, np.ndarray) else located(reference)
    if path and (path / FEATURES).exists():
        known, manifest = load_reference(path)
        data = Path(f"data/{dataset or manifest.dataset}.h5")
        store = ImageStore.open(data) if data.exists() else None
        if dataset and store and store.digest != manifest.dataset_digest:
            raise UserError(f"{path}: of other images than {data}; {REMEDY}")
        network = extractor_for(metric, extractor, manifest.dataset_digest, device)
        check_reference(metric, path, manifest, network.digest, None)
        return Basis(network, known, manifest.facts, store and store.shape)
    trained = read_extractor_manifest(extractor) if extractor else None
    network = extractor_for(metric, extractor, trained.dataset_digest if trained else "", device)
    facts = {"extractor_test_accuracy": trained and trained.test_accuracy}
    moments = read_statistics(path) if path else None
    if moments is not None:
        mu, sigma = moments
        sha256 = digest_of_arrays("statistics", {"mu": mu, "sigma": sigma}, {})
        facts |= {"reference_samples": None, "reference_sha256": sha256}
        statistics = FeatureStatistics.of_moments(*map(torch.from_numpy, moments))
        return Basis(network, Reference(statistics, None, None), lambda _: facts)
    _, images = _read(reference, silent)
    features = _features(network, metric, images, "reference", metric.truncated_reference, silent)
    features = replace(features, numbers=_numbers(path or "reference", images))
    facts |= {"reference_samples": len(images), "reference_sha256": _digest(images)}
    return Basis(network, Reference(features, None, None), lambda _: facts, images.shape[1:])


def _features(
    extractor: Extractor,
    metric: MetricSettings,
    images: np.ndarray,
    name: str,
    truncate: bool = False,
    silent: bool | None = None,
) -> Features:
    batches = batches_of(images, metric.batch_size)
    batches = map(truncated, batches) if truncate else batches
    return gather(extractor, batches, name, len(images), silent)


def _read(images: Images, silent: bool | None) -> tuple[str | None, np.ndarray]:
    """Return the path, None for an array, and the images."""
    if isinstance(images, np.ndarray):
        check_images(images, "N×C×H×W", "images")
        return None, images
    return str(images), read_images(images, silent)


def _numbers(where: Path | str, images: np.ndarray) -> torch.Tensor:
    """Number the images; copies share a number. Raises UserError unless 3 differ, in 3 blocks."""
    numbers = distinct_numbers(images)
    if (different := int(numbers.max()) + 1) < 3:
        raise UserError(f"{where}: {different} different images; at least 3 are needed")
    return numbers


def _digest(images: np.ndarray) -> str:
    return digest_of_arrays("images", {"images": images}, {})
