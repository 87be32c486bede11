"""The record of a start: a law of a dataset's training images, and the noise levels to start at.

It depends on the dataset and on flips, and on no network, so all models of a dataset share it. It
is not private: the starts of two sets of images that differ in one image give that image.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from psld.config.settings import parse
from psld.data.settings import DatasetSettings
from psld.data.store import ImageStore
from psld.diffusion.gaussian import GaussianData
from psld.training.mixture import SamplerStart, start_of_images
from psld.training.settings import StartSettings, start_file
from psld.utils.errors import UserError
from psld.utils.files import retried_in_slurm
from psld.utils.tensors import load_tensors, save_tensors

KIND = "start"
CPU = torch.device("cpu")
OTHERS = {
    "dataset": "of other images than those of the model's training",
    "flip": "with other mirror images than those of the model's training",
    "classes": "without a law of each class",
}


def make_start(settings: StartSettings, device: torch.device) -> SamplerStart:
    """Measure a dataset's training images on a device, and write their start.

    Raises UserError if the dataset is missing or damaged, or has too few different images.
    """
    store, path = ImageStore.open_for(settings.data, settings.dataset), settings.path
    print("fitting a mixture of Gaussians to the training images, to start from", flush=True)
    images, labels = store.images("train"), store.labels("train")
    num_classes = store.num_classes if settings.classes else 0
    chosen = device, labels, num_classes, settings.dataset.flip, settings.start
    try:
        start = start_of_images(images, *chosen)
    except UserError as error:
        raise UserError(f"{settings.data}: {error}") from None
    origin = {"dataset": store.digest, "flip": settings.dataset.flip, "classes": settings.classes}
    origin |= {"settings": settings.start.model_dump(mode="json")}
    save_tensors(path, KIND, start.data.arrays() | {"levels": start.levels}, origin)
    return load_start(path, origin)


def find_start(
    dataset: DatasetSettings,
    digest: str | None,
    classes: bool,
    file: str | Path | None = None,
    folder: Path = Path(),
    device: torch.device = CPU,
) -> SamplerStart:
    """Return the start of a model.

    It is read from `file`, if one is given; or else from starts/ here or in the model's folder.
    If there is none, or only one of other images, it is made of data/DATASET.h5.

    Args:
        dataset, digest: the images of the model's training; None takes those of data/DATASET.h5, if
            it is there.
        classes: ask for the law of each class, too.

    Raises UserError if the file is missing, damaged, malformed, or of other images; without a file,
    if the dataset is not here, either.
    """
    own, data, reasons = start_file(dataset, classes), Path(f"data/{dataset.name}.h5"), []
    here = ImageStore.open(data).digest if data.exists() else None
    wanted = {"dataset": digest or here, "flip": dataset.flip, "classes": classes or None}
    if file:
        return _of_size(dataset, load_start(file, wanted))
    for path in (Path(own), folder / own):
        if path.exists():
            try:
                return _of_size(dataset, load_start(path, wanted))
            except UserError as error:
                reasons.append(f"{error}; ")
    if here and digest in (None, here):
        from psld.config.compose import compose_content  # Hydra takes a third of a second.

        for reason in reasons:
            print(f"not kept: {reason.removesuffix('; ')}", flush=True)
        content = compose_content("start", [], "psld start") | {"dataset": dataset}
        content |= {"data": str(data), "classes": classes, "output": None}
        return make_start(parse(StartSettings, content, "psld start"), device)
    raise UserError(
        f"{''.join(reasons) or f'{own}: no such file; '}it is made of the images of the model's "
        f"training, which are not in {data}: run psld prepare dataset={dataset.name}, or give "
        "start=FILE"
    )


@retried_in_slurm
def load_start(path: str | Path, wanted: dict[str, Any]) -> SamplerStart:
    """Read a start.

    Raises UserError if it is missing, damaged or malformed, or if its origin is not `wanted`, of
    which None is any.
    """
    remedy = "make it again (psld start)"
    stored = load_tensors(path, KIND, remedy)
    for key, value in wanted.items():
        if value is not None and stored.origin.get(key) != value:
            raise UserError(f"{path}: {OTHERS.get(key, f'with other {key}')}; {remedy}")
    arrays = stored.tensors()
    if not _is_law(arrays):
        raise UserError(f"{path}: not a start of this version; {remedy}")
    levels = arrays.pop("levels")
    return SamplerStart(GaussianData.from_arrays(arrays), levels, str(path), stored.sha256)


def _of_size(dataset: DatasetSettings, start: SamplerStart) -> SamplerStart:
    """Return a start. Raises UserError if its images are not of the dataset's shape."""
    shape = (dataset.channels, dataset.image_size, dataset.image_size)
    if start.data.shape != shape:
        raise UserError(f"{start.path}: of images {start.data.shape}, but the model's are {shape}")
    return start


def _is_law(arrays: dict[str, Tensor]) -> bool:
    """Check that these are the arrays of a law and its levels: names, types, shapes, finite."""
    try:
        G, C, H, W = arrays["means"].shape
        (_, r), (_, K, q) = arrays["basis"].shape, arrays["centers"].shape
    except (KeyError, ValueError):
        return False
    shapes = {
        "means": (G, C, H, W),
        "basis": (C * H * W, r),
        "covariances": (G, r, r),
        "rests": (G,),
        "axes": (G, r, q),
        "weights": (G, K),
        "centers": (G, K, q),
        "spreads": (G, K, q, q),
        "levels": (2, G),
    }
    fits = {name: tuple(each.shape) for name, each in arrays.items()} == shapes
    finite = all(each.is_floating_point() and each.isfinite().all() for each in arrays.values())
    return fits and finite and bool((arrays["weights"].sum(1) > 0).all())
