"""Measure a cell, or any images, with 95 % intervals, from one pass for all metrics.

    psld evaluate images=downloads/edm.npz dataset=cifar10 'metric=[fid,kid]'  # no model needed
    psld evaluate images=mine/pictures reference=downloads/statistics.npz     # mu and sigma
    psld evaluate cell=demo/cld/em-quadratic-40      # all metrics of the cell in the grid
    psld evaluate model=models/demo/cld sampler=em sampler.steps=50 \\
        shards=samples/demo/cld/em-uniform-50 samples=1000 metric=fd-classifier \\
        reference=features/digits/fd-classifier/reference extractor=features/digits/fd-classifier \\
        output=result.json

psld evaluate images=PATH --help shows the settings for images.
"""

import math
import sys

from psld.commands.command import FromRecord
from psld.commands.entry import entry_point
from psld.config.words import value_in
from psld.metrics.command_settings import (
    EvaluateCommandSettings,
    EvaluateImagesSettings,
    EvaluateSettings,
)
from psld.metrics.estimate import Interval, combined
from psld.metrics.evaluation import evaluate
from psld.metrics.results import CellResult
from psld.training.hub import with_fetched_model

RUN = {"shards", "output", "keep", "device"}
RECORDS = {"cell": FromRecord("cells", RUN, "evaluate_job")}


@entry_point("evaluate", EvaluateCommandSettings, records=RECORDS)
def evaluate_cell(settings: EvaluateSettings | EvaluateCommandSettings) -> float:
    if isinstance(settings, EvaluateCommandSettings):
        settings = settings.evaluation()
    results = evaluate(with_fetched_model(settings)).results
    for result in results:
        print(f"{result.metric['name']} of {result.samples} images: {result.value:.4g}")
    return results[0].value


@entry_point("evaluate", EvaluateImagesSettings, has_config=False)
def evaluate_images(settings: EvaluateImagesSettings) -> float:
    # Pictures need Pillow, and cells do not.
    from psld.metrics import images

    content = settings.model_dump()
    results = images.evaluate_images(metrics=content.pop("metric"), **content).results
    for result in results:
        print("\n".join(_lines(result)))
    if settings.output:
        print(f"wrote {settings.output}")
    return results[0].value


def _lines(result: CellResult) -> list[str]:
    """Return a value with half of its 95 % interval, and what else is known about it."""
    half = result.interval.half_width
    has_error = half > 1e-6 * abs(result.value)  # not one of rounding
    digits = max(2, 1 - math.floor(math.log10(half))) if has_error else 4  # two of the error

    def text(interval: Interval) -> str:
        return f"{interval.value:.{digits}f} ± {interval.half_width:.{digits}f}"

    lines = [f"{result.metric['name']} of {result.samples:,} images: {text(result.interval)}"]
    if limit := result.extrapolated:
        lines.append(f"  of infinitely many: {text(limit)}")
    if other := result.reference_estimate:
        both = combined(result.value, [result.interval, other.interval])
        lines.append(f"  with other images of the reference, too: {text(both)}")
    elif result.reference_samples is None:
        lines.append("  with other images of the reference, too: not known from statistics alone")
    return lines


def main() -> None:
    """Evaluate images if the command line has `images=`, else a cell."""
    has_images = value_in(sys.argv[1:], "images") is not None
    (evaluate_images if has_images else evaluate_cell)()
