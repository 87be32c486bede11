"""Images as one array of bytes, whoever wrote them: pictures, an .npz, shards, a dataset."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from psld.data.picture import check_images, size_text, to_channels
from psld.data.source import FileTree
from psld.data.store import ImageStore
from psld.utils.errors import UserError, reraise_fault
from psld.utils.files import atomic_path, regular_file
from psld.utils.tensors import load_tensors

IMAGES = "arr_0"
"""The name of the images in an .npz of guided-diffusion and EDM: that of an array without one."""

ROUNDING = 1e-6
"""The rounding of a published covariance, as a share of its largest number or eigenvalue."""


def located(path: str | Path) -> Path:
    """Return the path, or if there is none, that of the prepared dataset of this name.

    Raises UserError if there is neither, or a pipe or a device.
    """
    data = Path(f"data/{path}.h5")
    for each in (Path(path), data):
        if each.exists():
            return regular_file(each)
    raise UserError(f"{path}: no such file or folder, and no prepared dataset {data}")


def read_images(path: str | Path, silent: bool | None = None) -> np.ndarray:
    """Read all images, uint8 N×C×H×W, gray or RGB, in the order of the names or of the array.

    Args:
        path: a folder or zip archive of pictures of one size; an .npz with uint8 N×H×W×C; a folder
            of shards of psld sample; a prepared dataset, .h5, or its name: its training images.
        silent: no progress bar; None shows one on a terminal.

    Raises:
        UserError: there are none, a file is damaged, or the images differ in size.
    """
    path = located(path)
    if path.suffix == ".h5":
        return np.array(ImageStore.open(path).images("train"))
    if path.suffix == ".npz":
        arrays = read_npz(path, [IMAGES])
        if arrays is None:
            raise UserError(f"{path}: no {IMAGES} in it; images are needed under this name")
        check_images(arrays[0], "N×H×W×C", f"{path}: {IMAGES}")
        return np.ascontiguousarray(arrays[0].transpose(0, 3, 1, 2))
    if path.suffix in (".npy", ".pt", ".pth"):
        raise UserError(
            f"{path}: not a form of images that is read; write them as uint8 N×H×W×C with "
            f"np.savez('images.npz', {IMAGES}=…)"
        )
    if path.is_dir() and (shards := sorted(path.glob("[0-9]*.safetensors"))):
        return _one_size(path, _read_shards(shards), len(shards))
    return _read_pictures(path, silent)


def _read_shards(files: Sequence[Path]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield name and images of shards. Raises UserError if they are not of one cell."""
    first: dict | None = None
    for file in files:
        stored = load_tensors(file, "shard", "sample it again")
        origin = stored.origin["origin"] | {"index": None}
        first = first or origin
        if origin != first:
            keys = ", ".join(key for key in origin if origin[key] != first.get(key))
            raise UserError(f"{file}: made by another {keys} than {files[0]}; take them apart")
        yield str(file), stored.arrays["images"]


def _read_pictures(path: Path, silent: bool | None) -> np.ndarray:
    tree = FileTree(path)
    names = tree.picture_names()

    def pixels(name: str) -> np.ndarray:
        image = tree.picture(name, frame=lambda whole: whole).read()
        array = np.asarray(to_channels(image, 1 if image.mode in ("1", "L", "LA") else 3))
        return array[None, None] if array.ndim == 2 else array.transpose(2, 0, 1)[None]

    # At an error, closing drops the pictures that are not begun, for which the pool would wait.
    with (
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
        closing(pool.map(pixels, names)) as arrays,
    ):
        decoded = zip(names, arrays, strict=True)
        bar = tqdm(decoded, f"reading {path}", len(names), disable=silent, unit="img")
        return _one_size(path, bar, len(names))


def _one_size(path: Path, parts: Iterable[tuple[str, np.ndarray]], count: int) -> np.ndarray:
    """Join named parts, n×C×H×W; gray ones become RGB if others are. Raises UserError."""
    arrays: list[np.ndarray] = []
    for name, array in parts:
        if arrays and array.shape[2:] != arrays[0].shape[2:]:
            sizes = size_text(array.shape[2:]), size_text(arrays[0].shape[2:])
            raise UserError(f"{path}: {name} has {sizes[0]} pixels, the first one {sizes[1]}")
        arrays.append(array)
    if len({array.shape[1] for array in arrays}) > 1:
        arrays = [array.repeat(3 // array.shape[1], axis=1) for array in arrays]
    return np.concatenate(arrays)


def read_npz(path: str | Path, names: Sequence[str]) -> list[np.ndarray] | None:
    """Read arrays of an .npz by name, and never unpickle; None if it lacks one of them.

    Raises UserError if the file is missing, damaged or of pickled objects, and RunError if an array
    is larger than the memory, or says so.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return [stored[name] for name in names] if {*names} <= {*stored.files} else None
    except Exception as error:  # What something else wrote can raise nearly any.
        reraise_fault(error, path)
        reason = "it has pickled objects, which can run code" if "pickle" in str(error) else error
        raise UserError(f"{path}: not a whole .npz of arrays ({reason})") from None


def read_statistics(path: str | Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Read the mean, d, and covariance, d×d, of features, as others publish them: `mu`, `sigma`.

    None if the file is no .npz with these. Raises UserError if they are no mean and covariance of
    float32 features; one of few images is singular.
    """
    arrays = read_npz(path, ["mu", "sigma"]) if Path(path).suffix == ".npz" else None
    if arrays is None:
        return None
    mean, covariance = arrays
    if mean.ndim != 1 or not mean.size or covariance.shape != 2 * mean.shape:
        shapes = size_text(mean.shape), size_text(covariance.shape)
        raise UserError(f"{path}: mu is {shapes[0]} and sigma {shapes[1]}; d and d×d are needed")
    if any(each.dtype not in (np.float32, np.float64) for each in arrays):
        types = f"{mean.dtype} and sigma {covariance.dtype}"
        raise UserError(f"{path}: mu is {types}; float32 or float64 is needed")
    # Larger numbers would overflow in a distance or its interval. NaN is not smaller.
    if not all((np.abs(each) < np.finfo(np.float32).max).all() for each in arrays):
        raise UserError(f"{path}: mu and sigma are not finite numbers of float32's range")
    if np.abs(covariance - covariance.T).max() > ROUNDING * np.abs(covariance).max():
        raise UserError(f"{path}: sigma is not symmetric, so it is no covariance")
    eigenvalues = np.linalg.eigvalsh(covariance.astype(np.float64))
    if eigenvalues[0] < -ROUNDING * abs(eigenvalues[-1]):
        least = f"the eigenvalue {eigenvalues[0]:.3g}"
        raise UserError(f"{path}: sigma has {least}, so it is no covariance")
    return mean, covariance


def write_npz(path: str | Path, images: np.ndarray) -> None:
    """Write uint8 images N×C×H×W as others' evaluators read them: `arr_0`, N×H×W×C."""
    with atomic_path(path) as partial, partial.open("wb") as file:
        np.savez(file, **{IMAGES: images.transpose(0, 2, 3, 1)})
