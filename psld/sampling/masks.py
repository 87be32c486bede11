"""Masks for inpainting. Mask i is that of image i, whichever shard it is in."""

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from psld.data.store import ImageStore
from psld.sampling.settings import (
    BoxesMask,
    DigitsMask,
    FileMask,
    HalvesMask,
    MaskSettings,
)
from psld.utils.errors import UserError
from psld.utils.files import sha256_of_file
from psld.utils.randomness import Stream, stream_seed

SIDES = ("left", "right", "top", "bottom")


def masks_of(
    settings: MaskSettings, indices: range, image_size: int, mnist: str | Path | None = None
) -> np.ndarray:
    """The masks of some images, uint8 N×H×W: 1 where a pixel is known, 0 in the hole.

    Args:
        mnist: the prepared MNIST, for masks of kind `digits`.
    """
    match settings:
        case BoxesMask():
            masks = [_boxes(settings, index, image_size) for index in indices]
        case HalvesMask():
            masks = [_half(settings, index, image_size) for index in indices]
        case DigitsMask():
            masks = list(_digits(ImageStore.open(mnist), indices, image_size))
        case FileMask():
            return _from_file(Path(settings.path), indices, image_size)
    return np.stack(masks).astype(np.uint8)


def masks_digest(settings: MaskSettings, mnist: str | Path | None = None) -> str | None:
    """What the masks depend on besides their settings: the digest of a file's content, if any."""
    match settings:
        case DigitsMask():
            return ImageStore.open(mnist).digest
        case FileMask():
            _check_exists(Path(settings.path))
            return sha256_of_file(settings.path)
    return None


def _boxes(settings: BoxesMask, index: int, size: int) -> np.ndarray:
    random = np.random.default_rng(stream_seed(settings.seed, Stream.MASK, index))
    known = np.ones((size, size), bool)
    shortest = max(1, round(settings.smallest * size))
    longest = max(shortest, round(settings.largest * size))
    for _ in range(settings.count):
        height, width = random.integers(shortest, longest, 2, endpoint=True)
        top = random.integers(0, size - height, endpoint=True)
        left = random.integers(0, size - width, endpoint=True)
        known[top : top + height, left : left + width] = False
    return known


def _half(settings: HalvesMask, index: int, size: int) -> np.ndarray:
    missing = SIDES[index % 4] if settings.missing == "cycle" else settings.missing
    known = np.ones((size, size), bool)
    rows_or_columns = known.T if missing in ("left", "right") else known
    rows_or_columns[: size // 2] = False
    return known if missing in ("left", "top") else known[::-1, ::-1]


def _digits(mnist: ImageStore, indices: range, size: int) -> Iterator[np.ndarray]:
    """Each digit resized to the nearest neighbour of each pixel's centre, as Pillow does it; every
    pixel that the stroke touches, however lightly, is in the hole. As in the official code."""
    digits = mnist.images("train")
    nearest = ((np.arange(size) + 0.5) * digits.shape[-1] / size).astype(int)
    for index in indices:
        yield digits[index % len(digits), 0][np.ix_(nearest, nearest)] == 0


def _from_file(path: Path, indices: range, size: int) -> np.ndarray:
    _check_exists(path)
    try:
        with h5py.File(path, locking=False) as file:
            masks = file["masks"]
            if masks.ndim != 3 or masks.shape[1:] != (size, size) or len(masks) == 0:
                raise UserError(f"{path}: masks are {masks.shape}, not n×{size}×{size}")
            if 1 < len(masks) < indices.stop:
                raise UserError(
                    f"{path}: holds {len(masks)} masks, too few for image {indices.stop - 1}; give "
                    "one for each image, or a single one for all"
                )
            alone = len(masks) == 1
            chosen = masks[:] if alone else masks[indices.start : indices.stop]
    except (OSError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: not an HDF5 file with the dataset masks ({error})") from None
    known = (chosen != 0).astype(np.uint8)
    return np.repeat(known, len(indices), axis=0) if alone else known


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path}: no such file (sampler.guidance.mask.path)")
