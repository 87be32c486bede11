"""Masks for inpainting. Mask i belongs to image i, in any shard."""

from pathlib import Path

import numpy as np

from psld.data.store import ImageStore
from psld.sampling.settings import BoxesMask, DigitsMask, FileMask, HalvesMask, MaskSettings
from psld.utils.errors import UserError, reraise_fault
from psld.utils.files import sha256_of_file
from psld.utils.randomness import Stream, stream_seed

SIDES = ("left", "right", "top", "bottom")


def masks_of(
    settings: MaskSettings, indices: range, image_size: int, mnist: str | Path | None = None
) -> np.ndarray:
    """Return the masks of some images, uint8 N×H×W: 1 for a known pixel, 0 in the hole.

    `mnist` is the prepared MNIST, for masks of kind `digits`.
    """
    match settings:
        case BoxesMask():
            masks = np.stack([_boxes(settings, index, image_size) for index in indices])
        case HalvesMask():
            masks = np.stack([_half(settings, index, image_size) for index in indices])
        case DigitsMask():
            masks = _digits(ImageStore.open(mnist), indices, image_size)
        case FileMask():
            masks = _from_file(Path(settings.path), indices, image_size)
    return masks.astype(np.uint8)


def masks_digest(settings: MaskSettings, mnist: str | Path | None = None) -> str | None:
    """Return the digest of the file that the masks come from; None without a file."""
    match settings:
        case DigitsMask():
            return ImageStore.open(mnist).digest
        case FileMask():
            if not Path(settings.path).is_file():
                raise UserError(f"{settings.path}: no such file (sampler.guidance.mask.path)")
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


def _digits(mnist: ImageStore, indices: range, size: int) -> np.ndarray:
    """Return masks whose holes are digits, resized to the nearest pixel as in Pillow.

    Every pixel of the stroke, even a faint one, is in the hole, as in the official code.
    """
    digits = mnist.images("train")
    nearest = ((np.arange(size) + 0.5) * digits.shape[-1] / size).astype(int)
    chosen = digits[np.array(indices) % len(digits), 0]
    return chosen[:, nearest[:, None], nearest] == 0


def _from_file(path: Path, indices: range, size: int) -> np.ndarray:
    try:
        masks = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # A damaged file can raise nearly any exception.
        reraise_fault(error)
        raise UserError(f"{path}: not an array as numpy.save writes it ({error})") from None
    if masks.dtype.kind not in "biuf" or masks.shape[1:] != (size, size) or len(masks) == 0:
        raise UserError(f"{path}: masks are {masks.dtype} {masks.shape}, not n×{size}×{size}")
    if len(masks) == 1:
        return np.repeat(masks[:] != 0, len(indices), axis=0)
    if len(masks) < indices.stop:
        raise UserError(
            f"{path}: holds {len(masks)} masks, too few for image {indices.stop - 1}; give "
            "one for each image, or a single one for all"
        )
    return masks[indices.start : indices.stop] != 0
