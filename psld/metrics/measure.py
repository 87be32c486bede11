"""A metric of features: its estimate, and its scale."""

from dataclasses import replace

from psld.config.parts import naming
from psld.metrics.blocks import BLOCKS, distinct_numbers
from psld.metrics.estimate import Estimate, Measured
from psld.metrics.features import Device, Features, FeatureStatistics, Reference
from psld.metrics.settings import MetricSettings


def measure(
    metric: MetricSettings,
    samples: Features,
    reference: Reference,
    device: Device = "cpu",
    blocks: int = BLOCKS,
) -> Measured:
    """Compute a metric with its interval from `blocks` blocks of the samples.

    Raises UserError if the samples are too few, and RunError if features are NaN or infinite.
    """
    reference = reference._replace(compared=metric.reference_split)
    with naming("metric.measure", metric.measure, "measure"):
        found = metric.measure.measure(samples, reference, samples.blocks(blocks), device)
        if not isinstance(found.estimate, Estimate):
            wrong = f"estimate returns a {type(found.estimate).__name__}, not an Estimate"
            raise TypeError(f"{wrong}; psld.metrics.blocks.jackknife makes one")
        return found


def measure_reference(
    metric: MetricSettings, samples: Features, reference: Reference, device: Device = "cpu"
) -> Estimate | None:
    """Compute a metric with the interval for other images of the reference, of the same samples.

    It is `measure` with the two sets exchanged, which changes no distance, and makes precision
    recall. None for statistics, and for measures that cannot be exchanged.
    """
    exchanged, images = metric.measure.exchanged, reference.split(metric.reference_split)
    if exchanged is None or isinstance(images, FeatureStatistics):
        return None
    if images.numbers is None:  # a dataset's, of which only the features were kept
        images = replace(images, numbers=distinct_numbers(images.values.numpy()))
    metric = metric.model_copy(update={"measure": exchanged, "reference_split": "train"})
    return measure(metric, images, Reference(samples, None, None), device).estimate


def value(
    metric: MetricSettings,
    images: Features | FeatureStatistics,
    reference: Reference,
    device: Device = "cpu",
) -> float:
    """Compute a metric without its interval; of measures `of_moments` from statistics, too."""
    reference = reference._replace(compared=metric.reference_split)
    with naming("metric.measure", metric.measure, "measure"):
        return metric.measure.scale(images, reference, device)


def scale(
    metric: MetricSettings, reference: Reference, device: Device = "cpu"
) -> dict[str, float | None]:
    """Return the metric of real images that are not in the reference (`floor`), and of `noise`.

    Each is None without such images. The floor is of all images of the split: a Fréchet distance or
    recall compares only with cells of as many.
    """
    held_out = reference._replace(compared=metric.reference_split).held_out
    pairs = (("floor", held_out), ("noise", reference.noise))
    return {name: value(metric, x, reference, device) if x else None for name, x in pairs}
