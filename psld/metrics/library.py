"""The library's functions that measure images: `psld.evaluate` and what it compares with."""

from pathlib import Path

import torch
from torch import Tensor

from psld.data.images import read_images
from psld.metrics.classifier import load_classifier
from psld.metrics.distances import frechet_distance
from psld.metrics.features import Extractor, batches_of, gather
from psld.metrics.images import evaluate_images, is_dataset
from psld.metrics.reference_folder import published_extractor
from psld.metrics.results import CellResult
from psld.metrics.settings import DINOv2Settings, EfficientNetSettings, InceptionSettings
from psld.utils.device import all_bits, choose_device
from psld.utils.errors import UserError

BATCH = 250
"""Images per evaluation of an extractor."""


def load_extractor(name: str | Path, device: str = "auto") -> Extractor:
    """Load a feature extractor.

        extractor = psld.load_extractor("features/digits/fd-classifier")

    Args:
        name: a folder that psld train_extractor wrote; or a published network: `inception` (of
            FID), `dinov2`, `efficientnet-lite0`.

    Raises UserError if a file is missing or damaged, or the device does not exist.
    """
    published = {
        "inception": InceptionSettings(kind="inception"),
        "dinov2": DINOv2Settings(kind="dinov2"),
        "efficientnet-lite0": EfficientNetSettings(kind="efficientnet-lite0"),
    }
    if settings := published.get(str(name)):
        return published_extractor(settings, choose_device(device))
    return load_classifier(name, choose_device(device))


def load_images(path: str | Path, progress: bool = False) -> Tensor:
    """Read all images of a folder or dataset, uint8 N×C×H×W.

        psld.save_images(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), "black")
        images = psld.load_images("black")       # "cifar10": the training images of data/cifar10.h5

    Args:
        path: a folder or zip archive of pictures of one size; an .npz with uint8 N×H×W×C (`arr_0`);
            a folder of shards of psld sample; or a prepared dataset, by its name or its .h5 file.

    Raises UserError if there are none, a file is damaged, or the images differ in size.
    """
    return torch.from_numpy(read_images(path, not progress))


def evaluate(
    images: Tensor | str | Path,
    reference: Tensor | str | Path,
    metric: str = "fid",
    *,
    extractor: str | Path | None = None,
    device: str = "auto",
    progress: bool = False,
) -> CellResult:
    """Measure images against a reference, with 95 % intervals.

        images, reference = torch.randint(256, (2, 100, 1, 8, 8), dtype=torch.uint8)
        extractor = "features/digits/fd-classifier"
        result = psld.evaluate(images, reference, "fd-classifier", extractor=extractor)
        print(result.value, result.interval, result.extrapolated)

    Args:
        images: uint8 N×C×H×W, or a path that `load_images` reads.
        reference: the same; the name of a prepared dataset, whose features are kept; an .npz of
            statistics (mu, sigma); or a folder that psld reference wrote.
        metric: a config in configs/metric, such as fid, kid or fd-classifier.
        extractor: a folder that psld train_extractor wrote, for metrics with a classifier; None:
            that of the dataset.

    Returns:
        `value` and `interval` for this number of images; `extrapolated` for infinitely many, if the
        metric is a Fréchet distance; `reference_estimate.interval` for other images of the
        reference; `estimate.copies`, the images that equal an earlier one and narrow no interval;
        and what `psld evaluate` writes.

    Raises UserError if files are missing or damaged, or the images do not fit the reference.
    """
    if not isinstance(metric, str):
        raise UserError(f"evaluate(): metric is {metric!r}; the name of one metric is needed")
    if extractor is not None and not isinstance(extractor, str | Path):
        raise UserError("evaluate(): extractor is the folder of an extractor, not the loaded one")
    first, second = (
        each if isinstance(each, str | Path) else torch.as_tensor(each).cpu().numpy()
        for each in (images, reference)
    )
    dataset = None
    if isinstance(second, str) and not Path(second).exists() and is_dataset(second):
        dataset, second = second, None
    with all_bits():
        results = evaluate_images(
            first,
            [metric],
            second,
            dataset=dataset,
            extractor=extractor,
            device=device,
            choose=choose_device,
            silent=not progress,
        )
    return results.results[0]


def distance(
    images: Tensor, reference: Tensor, extractor: Extractor | str | Path, progress: bool = False
) -> float:
    """Return the Fréchet distance between two sets of images in an extractor's features.

        extractor = psld.load_extractor("features/digits/fd-classifier")
        first, second = torch.randint(256, (2, 100, 1, 8, 8), dtype=torch.uint8)
        psld.distance(first, second, extractor)

    Args:
        images: uint8 N×C×H×W.
        reference: uint8 M×C×H×W.
        extractor: from `load_extractor`, or what it takes, or any object with the attributes of
            psld.metrics.features.Extractor.
        progress: show progress bars, in notebooks as widgets.

    Raises:
        UserError: the images do not suit the extractor, or a set has fewer than two.
        RunError: a feature is not finite.
    """
    if isinstance(extractor, str | Path):
        extractor = load_extractor(extractor)
    first, second = (
        gather(
            extractor, batches_of(each.cpu().numpy(), BATCH), "features", len(each), not progress
        ).total
        for each in map(torch.as_tensor, (images, reference))
    )
    return frechet_distance(first, second)
