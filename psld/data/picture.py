"""Picture files: decode, frame, resize, convert; and write images as PNG."""

import io
import math
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageOps

from psld.data.settings import FilterName
from psld.utils.errors import UserError
from psld.utils.files import atomic_path

FILTERS = {name: Image.Resampling[name.upper()] for name in get_args(FilterName)}

# Pillow clips deeper modes (16 or 32 bits, floats) to 0…255 instead of scaling them.
_EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})


class BrokenPicture(UserError):
    """A picture, `name`, that cannot be decoded."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(
            f"{name}: broken picture ({reason}); remove or replace it, or leave such pictures out "
            "with dataset.source.broken=skip"
        )
        self.name = name


def decode(data: bytes, name: str) -> Image.Image:
    """Decode a picture of 8 bits a channel, upright as its EXIF says. Raises BrokenPicture."""
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
    # A decoder can raise nearly any exception for a damaged file.
    except Exception as error:
        # Pillow's message for unknown data contains the address of the stream.
        reason = "not a picture" if "BytesIO" in str(error) else str(error)
        raise BrokenPicture(name, reason) from None
    if image.mode not in _EIGHT_BIT_MODES:
        raise BrokenPicture(name, f"mode {image.mode}, more than 8 bits a channel")
    return image


def central_square(image: Image.Image, side: int | None = None) -> Image.Image:
    """Cut out the central square of `side` pixels, by default the picture's shorter side.

    A smaller picture is surrounded by black.
    """
    side = side or min(image.size)
    left, top = int((image.width - side) / 2), int((image.height - side) / 2)
    return image.crop((left, top, left + side, top + side))


def to_channels(image: Image.Image, channels: int) -> Image.Image:
    """Convert to gray (Rec. 601 luma) or RGB, on white if the picture is transparent."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")


def to_pixels(
    image: Image.Image, channels: int, image_size: int, filter_name: FilterName | None
) -> np.ndarray:
    """Convert to uint8 (C, H, W), with antialiased resizing; squeeze to a square.

    Raises UserError if the size differs and there is no filter.
    """
    image = to_channels(image, channels)
    if image.size != (image_size, image_size):
        if filter_name is None:
            raise UserError(
                f"images are {image.width}×{image.height} but dataset.image_size is {image_size}; "
                f"resize them with dataset.filter, one of {', '.join(FILTERS)}"
            )
        image = image.resize((image_size, image_size), FILTERS[filter_name])
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def save_images(images: ArrayLike, path: str | Path) -> None:
    """Write uint8 images N×C×H×W into one picture PATH.png, or into a folder as 00000.png, …"""
    images, path = np.asarray(images), Path(path)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise UserError(
            f"{path}: uint8 images N×1×H×W or N×3×H×W are needed, not {images.dtype} {images.shape}"
        )
    if path.suffix.lower() == ".png":
        _write_png(in_one_picture(images), path)
        return
    for index, image in enumerate(images):
        _write_png(image, path / f"{index:05d}.png")


def in_one_picture(images: np.ndarray) -> np.ndarray:
    """Arrange images N×C×H×W in a square of rows, with a white line around each; C×H′×W′."""
    count, channels, height, width = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    picture = np.full((channels, rows * (height + 1) + 1, columns * (width + 1) + 1), 255, np.uint8)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        top, left = row * (height + 1) + 1, column * (width + 1) + 1
        picture[:, top : top + height, left : left + width] = image
    return picture


def _write_png(image: np.ndarray, path: Path) -> None:
    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    with atomic_path(path) as partial:
        Image.fromarray(pixels).save(partial, format="PNG")
