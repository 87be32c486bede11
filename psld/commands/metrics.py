"""Commands for evaluation: feature extractors, reference statistics, metrics of images.

The commands import torch after the settings are checked, so that help and errors appear quickly.
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
    """Train the feature extractor of a dataset, such as a classifier.

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
    """Compute the reference of a dataset: features of its images, and of noise for comparison.

        psld reference dataset=digits metric=fd-classifier
        psld reference dataset=cifar10 metric=fid extractor=null

    Metrics with the same setting `features` share a reference. Writes OUTPUT/features.safetensors
    and, last, OUTPUT/manifest.json.
    """
    from psld.evaluation.folders import make_reference

    images = make_reference(settings).images
    counts = ", ".join(f"{count} {name} images" for name, count in images.items())
    print(f"wrote {settings.output}: features of {counts}")


@entry_point("evaluate_cell", EvaluateSettings, record="cell", job="evaluate_job", has_config=False)
def evaluate_cell(settings: EvaluateSettings) -> None:
    """Evaluate the samples of a cell in a grid: all metrics with 95 % intervals, in one pass.

    psld evaluate_cell cell=demo/cld/em-quadratic-40
    psld evaluate images=samples/demo/cld/em-quadratic-40 dataset=digits metric=kd-classifier
    """
    from psld.evaluation import evaluation

    _print(evaluation.evaluate_cell(settings), settings.output)


@entry_point("evaluate", EvaluateImagesSettings, has_config=False)
def evaluate(settings: EvaluateImagesSettings) -> None:
    """Evaluate external images: all metrics with 95 % intervals, in one pass.

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
    """Format a result as lines: the value with its 95 % interval, warnings, and other estimates."""
    half = result.interval.half_width
    has_error = half > 1e-6 * abs(result.value)  # The interval is larger than rounding errors.
    # Show two significant digits of the error.
    digits = max(2, 1 - math.floor(math.log10(half))) if has_error else 4

    def text(interval: Interval) -> str:
        return f"{interval.value:.{digits}f} ± {interval.half_width:.{digits}f}"

    estimate, features = result.estimate, result.estimate.features
    copies = f" ({estimate.distinct:,} distinct)" if estimate.copies else ""
    of = f"{result.metric['name']} of {result.samples:,} images{copies}"
    if result.void:
        return [f"{of}: no value: {result.void}"]
    lines = [f"{of}: {text(result.interval)}"]
    if estimate.distinct < TESTED_FROM:
        tested = f"intervals were validated for {TESTED_FROM} or more distinct images"
        lines.append(f"  the interval is unreliable for so few images: {tested}")
    if limit := result.extrapolated:
        lines.append(f"  for infinitely many images: {text(limit)}")
    elif features and estimate.distinct < (least := EXTRAPOLATED_FROM * features):
        lines.append(
            f"  for infinitely many images: lower; an estimate needs at least {least:,} distinct "
            f"images ({EXTRAPOLATED_FROM} for each of {features:,} features)"
        )
    if other := result.reference_estimate:
        both = combined(result.value, [result.interval, other.interval])
        lines.append(f"  including the uncertainty of the reference: {text(both)}")
    elif result.reference_samples is None:
        lines.append(
            "  including the uncertainty of the reference: unknown from mean and covariance alone"
        )
    return lines
