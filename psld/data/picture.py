"""Picture files: decode, frame, resize, convert; and write images as PNG."""

import io
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from psld.data.settings import FilterName
from psld.utils.errors import UserError, reraise_fault
from psld.utils.files import atomic_path
from psld.utils.tensors import digest_of_arrays

# Pillow warns of damaged pictures. One that cannot be decoded is an error.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

FILTERS = {name: Image.Resampling[name.upper()] for name in get_args(FilterName)}

# The formats of the suffixes, and others that are often found under them. Pillow runs programs to
# read some of the rest.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

# Pillow clips deeper modes (16 or 32 bits, floats) to 0…255 instead of scaling them.
_EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})


SOURCE = "source"
"""The key of a picture's text with the digest of what made it."""


def decode(data: bytes, name: str) -> Image.Image:
    """Decode a picture of 8 bits a channel, upright as its EXIF says; the first of several frames.

    Raises UserError, with `name`, if it is broken, or so large that Pillow refuses it.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode not in _EIGHT_BIT_MODES:
            raise ValueError(f"mode {image.mode}, not 8 bits of gray, RGB or CMYK")
    # A decoder can raise nearly any exception for a damaged file.
    except Exception as error:
        reraise_fault(error, name)
        # Pillow's message for unknown data contains the address of the stream.
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "not a picture" if unknown else " ".join(str(error).split())
        raise UserError(f"{name}: broken picture ({reason}); remove or replace it") from None
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


def conversions(image: Image.Image, channels: int, image_size: int) -> Iterator[str]:
    """Say what `to_pixels` changes in a picture besides shrinking it."""
    gray = image.mode in ("1", "L", "LA")
    if min(image.size) < image_size:
        yield f"smaller than {image_size}×{image_size}, enlarged"
    if image.has_transparency_data:
        yield "transparent, put on white"
    if gray != (channels == 1):
        yield f"{'gray' if gray else 'colored'}, made {'RGB' if gray else 'gray'}"
    elif image.mode == "CMYK":
        yield "CMYK, made RGB"


def check_images(images: np.ndarray, form: str, where: str) -> None:
    """Raise UserError, with `where`, unless images are bytes of the form N×C×H×W or N×H×W×C."""
    channels = images.shape[form.split("×").index("C")] if images.ndim == 4 else 0
    if images.dtype != np.uint8 or channels not in (1, 3):
        raise UserError(
            f"{where}: {images.dtype} of {size_text(images.shape)}; uint8 {form} with 1 or 3 "
            "channels is needed"
        )


def size_text(shape: tuple[int, ...]) -> str:
    """Return a shape such as 8×8."""
    return "×".join(map(str, shape)) or "a number"


def save_images(
    images: ArrayLike, path: str | Path, first: int = 0, source: str | None = None
) -> None:
    """Write uint8 images N×C×H×W into one picture PATH.png, or into a folder as 00000.png, …

        psld.save_images(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), "four.png")

    Args:
        first: the number of the first file of a folder.
        source: a digest of what made the images; None: that of the images themselves. Pictures
            carry it, and a folder takes those of one source alone.

    Raises:
        UserError: the images are no bytes, or the folder holds other pictures.
    """
    images = np.asarray(images)
    check_images(images, "N×C×H×W", f"{path}")
    source = source or digest_of_arrays("images", {"images": images}, {})
    info = PngInfo()
    info.add_text(SOURCE, source)
    if is_single_picture(path, source):
        pictures = {Path(path): tiled(images, math.ceil(math.sqrt(len(images))))}
    else:
        names = (Path(path) / f"{first + i:05d}.png" for i in range(len(images)))
        pictures = dict(zip(names, images.transpose(0, 2, 3, 1), strict=True))
    for file, pixels in pictures.items():
        with atomic_path(file) as partial:
            gray = pixels.shape[2] == 1
            picture = Image.fromarray(pixels[:, :, 0] if gray else pixels)
            picture.save(partial, format="PNG", pnginfo=info)


def is_single_picture(path: str | Path, source: str) -> bool:
    """Return True if `save_images` writes one picture PATH, False if it writes into a folder.

    Raises UserError if it can do neither, or if the folder holds pictures of another source.
    """
    path = Path(path)
    single = path.suffix.lower() == ".png"
    if path.exists():
        wrong = path.is_dir() == single
    else:
        wrong = not single and path.suffix.lower() in Image.registered_extensions()
    if wrong:
        raise UserError(f"{path}: images go into a folder, or into a file that ends in .png")
    other = None if single else next(path.glob("*.png"), None)  # All there are of one source.
    if other and decode(other.read_bytes(), f"{other}").info.get(SOURCE) != source:
        raise UserError(f"{path}: holds other pictures, such as {other.name}; name another folder")
    return single


def tiled(images: np.ndarray, columns: int) -> np.ndarray:
    """Arrange images N×C×H×W in rows of `columns`, with white around each; H′×W′×C."""
    count, channels, height, width = images.shape
    rows, margin = math.ceil(count / columns), max(1, width // 32)
    white = np.full((rows * columns - count, *images.shape[1:]), 255, np.uint8)
    border = ((0, 0), (0, 0), (margin, 0), (margin, 0))
    whole = np.pad(np.concatenate([images, white]), border, constant_values=255)
    whole = whole.reshape(rows, columns, *whole.shape[1:]).transpose(0, 3, 1, 4, 2)
    whole = whole.reshape(rows * (height + margin), columns * (width + margin), channels)
    return np.pad(whole, ((0, margin), (0, margin), (0, 0)), constant_values=255)
