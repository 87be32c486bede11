"""From the bytes of a picture file to pixels: decode, frame, resize, convert."""

import io

import numpy as np
from PIL import Image, ImageOps

from psld.data.settings import FilterName
from psld.utils.errors import UserError

FILTERS: dict[FilterName, Image.Resampling] = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
}

# Pillow clips deeper modes (16 or 32 bits, floats) to 0…255 instead of scaling them.
_EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})


class BrokenPicture(UserError):
    """A picture that cannot be decoded; `name` says which."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(
            f"{name}: broken picture ({reason}); remove or replace it, or leave such pictures out "
            "with dataset.source.broken=skip"
        )
        self.name = name


def decode(data: bytes, name: str) -> Image.Image:
    """The whole picture, upright as its EXIF says, 8 bits a channel. Raises BrokenPicture."""
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
    # A damaged file can raise nearly anything in a decoder.
    except Exception as error:
        # Pillow names the anonymous stream that it could not identify, by its address.
        reason = "not a picture" if "BytesIO" in str(error) else str(error)
        raise BrokenPicture(name, reason) from None
    if image.mode not in _EIGHT_BIT_MODES:
        raise BrokenPicture(name, f"mode {image.mode}, more than 8 bits a channel")
    return image


def central_square(image: Image.Image, side: int | None = None) -> Image.Image:
    """The square of `side` pixels (the picture's shorter side by default) around the centre."""
    side = min(image.size) if side is None else side
    left = (image.width - side) // 2
    top = (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def to_channels(image: Image.Image, channels: int) -> Image.Image:
    """Grey (Rec. 601 luma) or RGB; what is transparent lies on white, as a viewer would show it."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")


def to_pixels(
    image: Image.Image, channels: int, image_size: int, filter_name: FilterName | None
) -> np.ndarray:
    """uint8 (C, H, W), squeezed to a square if it is none.

    Pillow's filters widen with the reduction, so the resizing is antialiased. Raises UserError when
    the size differs and there is no filter.
    """
    image = to_channels(image, channels)
    if image.size != (image_size, image_size):
        if filter_name is None:
            raise UserError(
                f"images are {image.width}×{image.height} but dataset.image_size is {image_size}; "
                f"resize them with dataset.filter, one of {', '.join(FILTERS)}"
            )
        image = image.resize((image_size, image_size), FILTERS[filter_name], reducing_gap=None)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
