"""Evaluate external images: `psld.evaluate`, `psld.distance`, and `psld evaluate images=`."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from psld.config.kinds import SHIPPED
from psld.config.parts import imported
from psld.config.settings import parse
from psld.data.images import (
    are_tensors,
    check_images,
    located,
    read_images,
    read_npz,
    size_text,
)
from psld.data.settings import Autoencoder
from psld.data.store import ImageStore, described_record
from psld.data.units import BYTES
from psld.evaluation import evaluation
from psld.evaluation.evaluation import ImageSource
from psld.evaluation.folders import (
    FEATURES,
    Basis,
    extractor_for,
    folder_basis,
    load_trained,
    prepared_shape,
    read_extractor_manifest,
    real_batches,
)
from psld.evaluation.results import CellResult, CellResults
from psld.evaluation.settings import Measurement, decoder_for
from psld.metrics import extraction
from psld.metrics.blocks import assign_blocks, distinct_numbers
from psld.metrics.distances import frechet_distance
from psld.metrics.extraction import FeatureExtractor, batches_of, gather, gather_moments
from psld.metrics.features import FeatureStatistics, Reference
from psld.metrics.settings import Extractor, MetricSettings
from psld.networks.forward import check_network
from psld.sampling.shards import Shard
from psld.utils.device import all_bits, choose_device
from psld.utils.errors import UserError, as_psld_errors
from psld.utils.files import digest_of
from psld.utils.tensors import array_of, digest_of_arrays

BATCH = 250
"""Images per call of an extractor."""

ROUNDING = 1e-6
"""The largest accepted rounding error of a published covariance, divided by its largest element or
eigenvalue."""

Images = str | Path | np.ndarray
"""A path that `load_images` reads, or N×C×H×W, uint8 or floats."""


class ObjectExtractor(Extractor):
    """An extractor that a caller of `evaluate` passes as a module or function."""

    sees = "values"

    kind: str = "given"

    def digest(self):
        return self.kind  # Its features are not saved, so no digest is needed.


def load_extractor(name: str | Path, device: str = "auto") -> FeatureExtractor:
    """Load a feature extractor.

        extractor = psld.load_extractor("features/digits/fd-classifier")

    `name` is a folder that psld train_extractor wrote, or an extractor that needs no training:
    `inception` (for FID), `dinov2`, `pixels`, or MODULE:CLASS for a custom part.
    Raises UserError if a file is missing or damaged.
    """
    if not Path(name).exists() and (str(name) in SHIPPED["extractor"] or ":" in str(name)):
        part = parse(Extractor, {"kind": str(name)}, "load_extractor()")
        return extraction.load_extractor(part, choose_device(device))
    return load_trained(name, choose_device(device))


@as_psld_errors()
def load_images(path: str | Path, progress: bool = False, image_size: int | None = None) -> Tensor:
    """Read all images of a folder or dataset, uint8 N×C×H×W; tensors are floats.

        psld.save_images(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), "black")
        images = psld.load_images("black")       # "cifar10": the training images of data/cifar10.h5

    `path` is a folder or archive of pictures of one size; an .npz with uint8 N×H×W×C (`arr_0`) or
    floats N×C×H×W; a folder of shards from psld sample; or the name or .h5 file of a prepared
    dataset. With
    `image_size`, pictures of any size are cropped to their central square and resized to
    `image_size` pixels. Raises UserError if there are no images, a file is damaged, or the images
    differ in size.
    """
    return torch.from_numpy(_read(path, not progress, image_size)[1])


@as_psld_errors()
def evaluate(
    images: Tensor | str | Path,
    reference: Tensor | str | Path,
    metric: str = "fid",
    *,
    extractor: str | Path | FeatureExtractor | Callable[[Tensor], Any] | None = None,
    image_size: int | None = None,
    device: str = "auto",
    progress: bool = False,
) -> CellResult:
    """Compute a metric of images compared with a reference, with 95 % intervals.

        images, reference = torch.randint(256, (2, 100, 1, 8, 8), dtype=torch.uint8)
        extractor = "features/digits/fd-classifier"
        result = psld.evaluate(images, reference, "fd-classifier", extractor=extractor)
        print(result.value, result.interval, result.extrapolated)

    Args:
        images: uint8 N×C×H×W, or a path that `load_images` reads. Floats are tensors; metrics of
            pictures then need the name of a dataset with a decoder as reference.
        reference: uint8 M×C×H×W or floats; a path that `load_images` reads; the name of a prepared
            dataset, whose saved features are used if they exist; an .npz with the reference
            statistics mu and sigma; or a folder that psld reference wrote.
        metric: a config in configs/metric, such as fid, kid or fd-classifier; or MEASURE@EXTRACTOR,
            each a kind or a config: recall@pixels, kid@fd-dinov2.
        extractor: for metrics with a trained extractor, a folder that psld train_extractor wrote;
            None: the extractor of the dataset. To replace the metric's extractor, pass the result
            of `load_extractor`, a module in eval mode, or a function that maps uint8 N×C×H×W on the
            device to float features N×d.
        image_size: as in `load_images`, for images and reference.

    Returns:
        The fields that `psld evaluate` writes. `value` and `interval` are for this number of
        images; `extrapolated` is for infinitely many images, if the metric is a Fréchet distance;
        `reference_estimate.interval` covers other draws of the reference images, with the evaluated
        images fixed; `estimate.copies` is the number of images that equal an earlier image. Copies
        do not narrow the interval.

    Raises UserError if files are missing or damaged, or the images do not fit the reference.
    """
    first, second = (
        each if isinstance(each, str | Path) else array_of(each, name)
        for name, each in (("images", images), ("reference", reference))
    )
    options = {"extractor": extractor, "image_size": image_size, "silent": not progress}
    options["device"] = choose_device(device)
    if extractor is not None and not isinstance(extractor, str | Path):
        options["extractor"] = _as_extractor(extractor, device)
    if isinstance(second, str) and not Path(second).exists() and is_dataset(second):
        options["dataset"], second = second, None
    with all_bits():
        return evaluate_images(first, [metric], second, **options).results[0]


@as_psld_errors()
def distance(
    images: Tensor,
    reference: Tensor,
    extractor: str | Path | FeatureExtractor | Callable[[Tensor], Any],
    progress: bool = False,
) -> float:
    """Return the Fréchet distance between two sets of images in the feature space of an extractor.

        extractor = psld.load_extractor("features/digits/fd-classifier")
        first, second = torch.randint(256, (2, 100, 1, 8, 8), dtype=torch.uint8)
        psld.distance(first, second, extractor)

    Args:
        images, reference: uint8 N×C×H×W and M×C×H×W.
        extractor: the result or the argument of `load_extractor`; or a module or a function as in
            `evaluate`.

    Raises UserError if the images do not fit the extractor or a set has fewer than two images, and
    RunError if a feature is NaN or infinite.
    """
    is_named = isinstance(extractor, str | Path)
    extractor = load_extractor(extractor) if is_named else _as_extractor(extractor, "auto")
    totals, dtypes = [], set[bool]()
    for name, given in {"images": images, "reference": reference}.items():
        each = array_of(given, name)
        if not (extractor.part.sees == "values" and are_tensors(each)):
            check_images(each, "N×C×H×W", name)
        batches = batches_of(each, BATCH)
        if len(dtypes := dtypes | {are_tensors(each)}) == 2:
            raise UserError(f"reference: {each.dtype}, unlike the images; give both alike")
        whole = assign_blocks(len(each), 1)  # One block suffices, because no interval is needed.
        moments = gather_moments(extractor, batches, "features", whole, silent=not progress)
        totals.append(moments.total)
    return frechet_distance(*totals)


# -- the work behind them -------------------------------------------------------------------------


def _as_extractor(extractor: Any, device: str) -> FeatureExtractor:
    """Convert a module or a function to an extractor. Raises UserError for other objects."""
    if isinstance(extractor, FeatureExtractor):
        return extractor
    if isinstance(extractor, nn.Module):
        check_network(extractor, "extractor")
        # Copy the module, because the caller may continue to train it.
        extractor = deepcopy(extractor)
    return FeatureExtractor(ObjectExtractor(), extractor, choose_device(device))


def evaluate_images(
    images: Images,
    metrics: Sequence[str],
    reference: Images | None,
    *,
    dataset: str | None = None,
    extractor: str | Path | FeatureExtractor | None = None,
    image_size: int | None = None,
    samples: int | None = None,
    output: str | None = None,
    device: torch.device,
    silent: bool = False,
) -> CellResults:
    """Evaluate external images by one or more metrics, and write the results if `output` is a path.

    See `EvaluateImagesSettings` for the arguments. Raises UserError if files are missing or
    damaged, if there are too few images, or if images and reference differ in size.
    """
    # Importing Hydra takes a third of a second, and the evaluation of cells does not need it.
    from psld.metrics.named import compose_metric

    # Compose all metrics before other work, because a wrong name raises an error here.
    composed = [compose_metric(name) for name in metrics]
    if isinstance(extractor, FeatureExtractor):
        composed = [metric.with_extractor(extractor.part) for metric in composed]
    if dataset and not is_dataset(dataset):
        missing = f"dataset={dataset}: no data/{dataset}.h5"
        raise UserError(f"{missing}; run psld prepare dataset={dataset}")
    path, whole, shards = _read(images, silent, image_size)
    where = path or "images"
    if len(whole) < (least := samples or 3):
        raise UserError(f"{where}: {len(whole)} images; at least {least} images are needed")
    whole = whole[:samples]
    sha256, shape = _digest(whole), whole.shape[1:]
    _check_alike(where, whole, dataset, shards)
    decode = _decoder(where, dataset, composed) if are_tensors(whole) else None
    source = ImageSource(
        facts={"images": path, "images_sha256": sha256},
        digest=lambda compared: digest_of(["images", sha256, compared]),
        chunks=shards or [whole],
        numbers=_numbers(where, whole),
        silent=silent,
    )
    needs_features = {metric.features for metric in composed if metric.needs_features}
    measurements, bases = [], {}
    for word, metric in zip(metrics, composed, strict=True):
        folder = extractor if len(composed) == 1 else None
        if metric.extractor.trains and not isinstance(extractor, FeatureExtractor):
            folder = extractor or (dataset and f"features/{dataset}/{metric.features}")
            if folder:  # The manifest has the settings with which the extractor was trained.
                trained = imported(read_extractor_manifest(folder).extractor, folder)
                metric = metric.model_copy(update={"extractor": trained})
        measurements.append(Measurement(metric=metric, samples=len(whole)))
        if (name := metric.features) not in bases:
            given = reference, dataset, folder, image_size, device, silent
            bases[name] = _basis(metric, name in needs_features, *given, decode, are_tensors(whole))
            if (expected := bases[name].shape) not in (None, shape):
                sizes = size_text(shape), size_text(expected)
                raise UserError(
                    f"{where}: the images are {sizes[0]}, but the reference has {sizes[1]}; both "
                    "must have the same size"
                )
        if metric.needs_test and bases[name].reference.test is None:
            option = "" if metric.extractor.trains else " extractor=null"
            raise UserError(
                f"metric={metric.name}: needs test images, but the reference has none; if the "
                f"dataset has a test split, run psld reference dataset=NAME metric={word}{option}, "
                "and give dataset=NAME"
            )
    return evaluation.evaluate(source, bases, measurements, device, output, decode=decode)


def _check_alike(
    where: Path | str, images: np.ndarray, dataset: str | None, shards: Sequence[Shard]
) -> None:
    """Raise UserError if the images cannot be compared with the dataset.

    Pictures cannot be compared with tensors, and samples of tensors can be compared only with the
    dataset of their model.
    """
    if dataset is None or not (data := Path(f"data/{dataset}.h5")).exists():
        return
    store = ImageStore.open(data)
    if are_tensors(images) != (store.units != BYTES):
        raise UserError(f"{where}: {images.dtype}, but {data} has {store.units.dtype}")
    if shards and are_tensors(images) and shards[0].origin.dataset_digest != store.digest:
        wrong = "sampled from a model of other data than"
        raise UserError(f"{where}: {wrong} {data}; train the model again, and sample it")


def _decoder(
    where: Path | str, dataset: str | None, metrics: Sequence[MetricSettings]
) -> Autoencoder | None:
    """Return the decoder that makes pictures from tensors; None if no metric needs pictures.

    Raises UserError if the dataset is not given, or has no tensors or no decoder.
    """
    needing = [metric for metric in metrics if metric.extractor.sees == "pictures"]
    if not needing:
        return None
    decode, data = None, Path(f"data/{dataset}.h5")
    if dataset and data.exists() and ImageStore.open(data).units != BYTES:
        decode = decoder_for(described_record(data).settings, needing[0])
    if decode is None:
        right = "give uint8, the name of a dataset with a decoder, or metric=fd-values"
        raise UserError(f"{where}: has floats, but {needing[0].name} measures pictures; {right}")
    return decode


def is_dataset(name: str) -> bool:
    """Check if data/ or features/ has a dataset with this name."""
    return Path(f"data/{name}.h5").exists() or Path(f"features/{name}").exists()


def _basis(
    metric: MetricSettings,
    needs_features: bool,
    reference: Images | None,
    dataset: str | None,
    extractor: str | Path | FeatureExtractor | None,
    image_size: int | None,
    device: torch.device,
    silent: bool,
    decode: Autoencoder | None,
    tensors: bool,
) -> Basis:
    """Load the extractor and the reference; for a dataset, use the saved features if they exist.

    Args:
        needs_features: keep the features of the reference's images, not only their moments.
        decode: makes pictures from tensors; the saved features must then exist.
        tensors: whether the evaluated images are tensors; the reference must then consist of
            tensors, too, otherwise of pictures.
    """
    is_decoded = decode is not None and metric.extractor.sees == "pictures"
    if reference is None:
        kept = Path(f"features/{dataset}/{metric.features}/reference")
        if is_decoded and not (kept / FEATURES).exists():
            how = f"psld reference dataset={dataset} metric={metric.name}"
            raise UserError(f"{kept}: the pictures of {dataset} have no features; run {how}")
        reference = kept if (kept / FEATURES).exists() else f"data/{dataset}.h5"
    path = None if isinstance(reference, np.ndarray) else located(reference)
    if path and (path / FEATURES).exists():
        shape = prepared_shape(path, dataset)
        shape = None if is_decoded else shape
        basis = folder_basis(metric, path, extractor, device, decode=decode)
        return basis._replace(shape=shape)
    network = extractor_for(metric, extractor, device=device)
    facts: dict[str, Any] = {"extractor_test_accuracy": network.test_accuracy}
    if moments := read_statistics(path) if path else None:
        sha256 = digest_of_arrays("statistics", moments, {})
        facts |= {"reference_samples": None, "reference_sha256": sha256}
        mean, covariance = (torch.from_numpy(each) for each in moments.values())
        statistics = FeatureStatistics.of_moments(mean, covariance)
        return Basis(Reference(statistics, None, None), lambda _: facts, network)
    images = _read(reference, silent, image_size)[1]
    if are_tensors(images) != tensors:
        raise UserError(
            f"{path or 'reference'}: {images.dtype}, unlike the images; give both alike"
        )
    numbers, batches = _numbers(path or "reference", images), real_batches(images, metric)
    if needs_features:
        gathered = gather(network, batches, "reference", len(images), silent)
        gathered = replace(gathered, numbers=numbers)
    else:
        blocks = assign_blocks(numbers)
        gathered = gather_moments(network, batches, "reference", blocks, numbers, silent)
    facts |= {"reference_samples": len(images), "reference_sha256": _digest(images)}
    return Basis(Reference(gathered, None, None), lambda _: facts, network, images.shape[1:])


def read_statistics(path: Path) -> dict[str, np.ndarray] | None:
    """Read published reference statistics: `mu`, the mean, d, and `sigma`, the covariance, d×d.

    Return None if the file is not an .npz with `mu` and `sigma`. Raises UserError if the arrays are
    not a mean and a covariance.
    """
    arrays = read_npz(path, ["mu", "sigma"]) if path.suffix == ".npz" else None
    if arrays is None:
        return None
    mean, covariance = arrays
    has_shape = mean.ndim == 1 and mean.size and covariance.shape == 2 * mean.shape
    if not has_shape or any(each.dtype not in (np.float32, np.float64) for each in arrays):
        found = [f"{each.dtype} of {size_text(each.shape)}" for each in arrays]
        wrong = f"mu is {found[0]} and sigma {found[1]}; float32 or float64 of d and d×d is needed"
    # Larger numbers would overflow in a distance or its interval. NaN fails the comparison, too.
    elif not all((np.abs(each) < np.finfo(np.float32).max).all() for each in arrays):
        wrong = "mu and sigma must be finite and in the range of float32"
    elif np.abs(covariance - covariance.T).max() > ROUNDING * np.abs(covariance).max():
        wrong = "sigma is not symmetric, so it is not a covariance"
    else:
        least, largest = np.linalg.eigvalsh(covariance.astype(np.float64))[[0, -1]]
        if least >= -ROUNDING * abs(largest):
            return {"mu": mean, "sigma": covariance}
        wrong = f"sigma has the eigenvalue {least:.3g}, so it is not a covariance"
    raise UserError(f"{path}: {wrong}")


def _read(
    images: Images, silent: bool, image_size: int | None
) -> tuple[str | None, np.ndarray, list[Shard]]:
    """Return the path (None for an array), the images, and the shards if the path has shards."""
    if isinstance(images, np.ndarray):
        if not are_tensors(images):
            check_images(images, "N×C×H×W", "images")
        return None, images, []
    files = sorted(located(images).glob("[0-9]*.safetensors"))  # Empty if the path is a file.
    if not files:
        return str(images), read_images(images, silent, image_size), []
    shards = [Shard.load(file) for file in files]
    first, *others = (shard.origin.at(0).model_dump() for shard in shards)
    for file, origin in zip(files[1:], others, strict=True):
        if keys := ", ".join(key for key in origin if origin[key] != first[key]):
            raise UserError(
                f"{file}: sampled with a different {keys} than {files[0]}; separate the shards"
            )
    return str(images), np.concatenate([shard.images for shard in shards]), shards


def _numbers(where: Path | str, images: np.ndarray) -> torch.Tensor:
    """Number the images; copies share a number. Raises UserError unless 3 images are distinct."""
    numbers = distinct_numbers(images)
    if (different := int(numbers.max()) + 1) < 3:
        raise UserError(f"{where}: {different} distinct images; at least 3 are needed")
    return numbers


def _digest(images: np.ndarray) -> str:
    return digest_of_arrays("images", {"images": images}, {})
