"""The record of a start: a law of a dataset's training images, and the noise levels to start at.

It depends on the dataset and on flips, and on no network, so all models of a dataset share it. It
is not private: the starts of two sets of images that differ in one image give that image.
"""

from pathlib import Path
from typing import Any

import torch

from psld.config.settings import parse
from psld.data.settings import DatasetSettings
from psld.data.store import ImageStore
from psld.diffusion.gaussian import GaussianData
from psld.training.mixture import SamplerStart, measure_start
from psld.training.settings import StartSettings, start_file
from psld.utils.errors import UserError
from psld.utils.tensors import load_tensors, save_tensors

KIND = "start"
CPU = torch.device("cpu")


def make_start(settings: StartSettings, device: torch.device) -> SamplerStart:
    """Measure a dataset's training images on a device, and write their start.

    Raises UserError if the dataset is missing or damaged, or has too few different images.
    """
    dataset, path = settings.dataset, settings.path
    store = ImageStore.open_for(settings.data, dataset)
    print("fitting a mixture of Gaussians to the training images, to start from", flush=True)
    images, labels = store.images("train"), store.labels("train")
    num_classes = store.num_classes if settings.classes else 0
    try:
        start = measure_start(images, device, settings.start, labels, num_classes, dataset.flip)
    except UserError as error:
        raise UserError(f"{settings.data}: {error}") from None
    origin = {"dataset": store.digest, "flip": dataset.flip, "classes": settings.classes}
    origin |= {"settings": settings.start.model_dump(mode="json")}
    save_tensors(path, KIND, start.data.arrays() | {"levels": start.levels}, origin)
    return load_start(path, dataset, origin)


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
        return load_start(file, dataset, wanted)
    for path in (Path(own), folder / own):
        if path.exists():
            try:
                return load_start(path, dataset, wanted)
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


def load_start(path: str | Path, dataset: DatasetSettings, wanted: dict[str, Any]) -> SamplerStart:
    """Read a start, and draw an image of the dataset's shape from it.

    Raises UserError if it is missing, damaged or malformed, or if its origin is not `wanted`, of
    which None is any.
    """
    remedy = "make it again (psld start)"
    stored = load_tensors(path, KIND, remedy)
    for key, value in wanted.items():
        if value is not None and stored.origin.get(key) != value:
            raise UserError(f"{path}: made of another {key} than is asked for; {remedy}")
    arrays, shape = stored.tensors(), (dataset.channels, dataset.image_size, dataset.image_size)
    try:
        levels, noise = arrays.pop("levels"), torch.zeros(1, *shape, dtype=torch.float32)
        start = SamplerStart(GaussianData.from_arrays(arrays), levels, str(path), stored.sha256)
        if start.data.draw(noise, start.level(), which=noise.new_zeros(1)).isfinite().all():
            return start
    except (LookupError, TypeError, RuntimeError):  # Arrays are missing, or do not fit together.
        pass
    raise UserError(f"{path}: not a start of images {shape}; {remedy}")
