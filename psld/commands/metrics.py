"""Commands that measure images: extractors, references, evaluations.

They import torch when their settings are known, so their help and their errors do without it.
"""

import math
from typing import Any

from psld.commands.main import entry_point
from psld.evaluation.results import CellResult, CellResults
from psld.evaluation.settings import (
    EvaluateImagesSettings,
    EvaluateSettings,
    ReferenceSettings,
    TrainExtractorSettings,
)
from psld.metrics.estimate import EXTRAPOLATED_FROM, TESTED_FROM, Interval, combined


@entry_point("train_extractor", TrainExtractorSettings, record="features", job="extractor_job")
def train_extractor(settings: TrainExtractorSettings) -> None:
    """Train the extractor of a dataset, such as its feature classifier.

        psld train_extractor dataset=digits metric=fd-classifier

    Writes OUTPUT/weights.safetensors and, last, OUTPUT/manifest.json.
    """
    from psld.evaluation.folders import make_extractor

    manifest = make_extractor(settings)
    accuracies = {"train": manifest.train_accuracy, "test": manifest.test_accuracy}
    shares = [f"{each:.1%} on {split}" for split, each in accuracies.items() if each is not None]
    print(f"wrote {settings.output}{': accuracy ' * bool(shares)}{', '.join(shares)}")


@entry_point("reference", ReferenceSettings, record="features", job="reference_job")
def reference(settings: ReferenceSettings) -> None:
    """Compute the reference of a dataset: the features of its images, and of noise for the scale.

        psld reference dataset=digits metric=fd-classifier
        psld reference dataset=cifar10 metric=fid extractor=null

    Metrics with the same `features` share a reference. Writes OUTPUT/features.safetensors and,
    last, OUTPUT/manifest.json.
    """
    from psld.evaluation.folders import make_reference

    images = make_reference(settings).images
    counts = ", ".join(f"{count} of {name}" for name, count in images.items())
    print(f"wrote {settings.output}: features of images: {counts}")


@entry_point("evaluate_cell", EvaluateSettings, record="cell", job="evaluate_job", has_config=False)
def evaluate_cell(settings: EvaluateSettings) -> None:
    """Measure the samples of a grid's cell with 95 % intervals, from one pass for all metrics.

    psld evaluate_cell cell=demo/cld/em-quadratic-40
    psld evaluate images=samples/demo/cld/em-quadratic-40 dataset=digits metric=kd-classifier
    """
    from psld.evaluation import evaluation

    _print(evaluation.evaluate_cell(settings), settings.output)


@entry_point("evaluate", EvaluateImagesSettings, has_config=False)
def evaluate(settings: EvaluateImagesSettings) -> None:
    """Measure any images with 95 % intervals, from one pass for all metrics.

    psld evaluate images=downloads/edm.npz dataset=cifar10 'metric=[fid,kid]'  # no model needed
    psld evaluate images=mine/pictures reference=downloads/statistics.npz     # mu and sigma
    """
    from psld.evaluation import images
    from psld.utils.device import use_device

    content: dict[str, Any] = settings.model_dump() | {"device": use_device(settings.device)}
    metrics = content.pop("metric")
    _print(images.evaluate_images(metrics=metrics, **content), settings.output)


def _print(results: CellResults, output: str | None) -> None:
    for result in results.results:
        print("\n".join(_lines(result)))
    if output:
        print(f"wrote {output}")


def _lines(result: CellResult) -> list[str]:
    """Return a value with half of its 95 % interval, and what else is known about it."""
    half = result.interval.half_width
    has_error = half > 1e-6 * abs(result.value)  # not one of rounding
    digits = max(2, 1 - math.floor(math.log10(half))) if has_error else 4  # two of the error

    def text(interval: Interval) -> str:
        return f"{interval.value:.{digits}f} ± {interval.half_width:.{digits}f}"

    estimate, features = result.estimate, result.estimate.features
    copies = f" ({estimate.distinct:,} different)" if estimate.copies else ""
    of = f"{result.metric['name']} of {result.samples:,} images{copies}"
    if result.void:
        return [f"{of}: no value: {result.void}"]
    lines = [f"{of}: {text(result.interval)}"]
    if estimate.distinct < TESTED_FROM:
        tested = f"intervals were tested from {TESTED_FROM} different images on"
        lines.append(f"  do not trust ± of so few images: {tested}")
    if limit := result.extrapolated:
        lines.append(f"  of infinitely many: {text(limit)}")
    elif features and estimate.distinct < (least := EXTRAPOLATED_FROM * features):
        lines.append(
            f"  of infinitely many: lower, and not known from fewer than {least:,} different "
            f"images, {EXTRAPOLATED_FROM} for each of {features:,} features"
        )
    if other := result.reference_estimate:
        both = combined(result.value, [result.interval, other.interval])
        lines.append(f"  with other images of the reference, too: {text(both)}")
    elif result.reference_samples is None:
        lines.append("  with other images of the reference, too: not known from statistics alone")
    return lines
