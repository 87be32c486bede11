"""Images in files: pictures in folders and zip archives, an .npz, a prepared dataset."""

import hashlib
import io
import math
import os
import sys
import zipfile
from collections import Counter
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from psld.data.store import ImageStore
from psld.utils.errors import UserError, as_psld_errors, listed, reading, reraise_fault
from psld.utils.files import atomic_path, atomic_paths, check_place, files_below, regular_file
from psld.utils.progress import Progress
from psld.utils.tensors import array_of, digest_of_arrays

PICTURE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# Of the suffixes, and often found under them. Pillow runs programs to read some of the rest.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# Pillow clips deeper modes to 0…255 instead of scaling them.
_EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})

SHOWN = 64  # pixels: on a sheet, each pixel of a narrower image is a square, which no viewer blurs
IMAGES = "arr_0"  # in an .npz of guided-diffusion and EDM: the name of an array without one
REMOVE = "; remove or replace it"
FILES_AT_ONCE = 1000  # pictures of a folder that are flushed to disk together
SOURCE = "source"  # the key of a picture's text with the digest of what made it


def decode(data: bytes, name: str) -> Image.Image:
    """Decode a picture to 8 bits a channel, upright as its EXIF says; the first of several frames.

    Raises UserError, with `name`, if it is broken, or so large that Pillow refuses it.
    """
    with reading(name, "broken picture", REMOVE, BrokenPicture):
        try:
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
        except UnidentifiedImageError:  # Its message contains the address of the stream.
            raise ValueError("not a picture") from None
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith("I;16"):  # Keep the upper half, as Pillow does of RGB.
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if image.mode not in _EIGHT_BIT_MODES:
            raise ValueError(f"mode {image.mode}, not 8 bits of gray, RGB or CMYK")
        return image


def to_channels(image: Image.Image, channels: int) -> Image.Image:
    """Convert to gray (Rec. 601 luma) or RGB, on white if the picture is transparent."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")


def as_image(picture: Any, where: str) -> Image.Image:
    """Return a picture of a source, or a uint8 array H×W or H×W×C, as a PIL image.

    Raises UserError, with `where`, for other numbers than bytes, which Pillow would clip.
    """
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture[:, :, 0] if picture.shape[2:] == (1,) else picture)
    if picture.mode not in _EIGHT_BIT_MODES:
        raise UserError(f"{where}: mode {picture.mode}, not 8 bits of gray, RGB or CMYK")
    return picture


def central_square(image: Image.Image, side: int | None = None) -> Image.Image:
    """Cut out the central square of `side` pixels, by default the picture's shorter side.

    A smaller picture is surrounded by black.
    """
    side = side or min(image.size)
    left, top = int((image.width - side) / 2), int((image.height - side) / 2)
    return image.crop((left, top, left + side, top + side))


class BrokenPicture(UserError):
    """A file of a picture is damaged."""


class FileTree:
    """The regular files of a folder and its subfolders, links followed, or of a zip archive.

    Hidden files are left out, and so is a link that leads back to a folder above it. All reading
    threads share one open archive, as zipfile allows. Nothing is unpacked to disk.

    Raises UserError if `path` is neither a folder nor a whole archive.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._archive: zipfile.ZipFile | None = None
        self._left_out: Counter[str] = Counter()
        if path.is_dir():
            sizes = dict(files_below(path, self._left_out))
        else:
            with reading(path, "neither a folder nor a whole zip archive"):
                self._archive = zipfile.ZipFile(regular_file(path))
            # Of two files of one name, the later one counts.
            members = [each for each in self._archive.infolist() if each.filename]
            sizes = {file.filename: file.file_size for file in members if not file.is_dir()}
        self.sizes = {name: sizes[name] for name in sorted(sizes) if not _is_hidden(name)}
        """In bytes, by name, with / between folders."""
        self._pictures = [name for name in self.sizes if name.lower().endswith(PICTURE_SUFFIXES)]

    def picture_names(self) -> list[str]:
        """Return the names that end like a picture's, sorted, and print how many others there are.

        Raises UserError if there are none.
        """
        others = Counter(map(_ending, sorted(self.sizes.keys() - set(self._pictures))))
        others += self._left_out
        counts = ", ".join(f"{count} × {kind}" for kind, count in others.most_common(5))
        left_out = f"left out: {counts}{', …' if len(others) > 5 else ''}" if others else ""
        if not self._pictures:
            ends = f"they end in {', '.join(PICTURE_SUFFIXES)}{left_out and f' ({left_out})'}"
            raise UserError(f"{self.path}: no pictures in it; {ends}")
        if left_out:
            print(f"{self.path}: {left_out}", file=sys.stderr)
        return self._pictures

    def listing(self) -> str:
        """Return the number of pictures, and a digest of their names and sizes."""
        lines = "".join(f"{self.sizes[name]} {name}\0" for name in self._pictures)
        digest = hashlib.sha256(bytes_of(lines)).hexdigest()
        return f"{len(self._pictures):,} pictures, names and sizes {digest[:12]}"

    def read(self, name: str) -> bytes:
        """Read a file. Raises UserError if it does not match the archive's own checksum."""
        with reading(f"{self.path}/{name}", "cannot be read", REMOVE, BrokenPicture):
            return self._archive.read(name) if self._archive else (self.path / name).read_bytes()

    def picture(self, name: str) -> Image.Image:
        return decode(self.read(name), f"{self.path}/{name}")


def refuse(broken: Sequence[str]) -> None:
    """Raise UserError if pictures are broken, with the errors of at most ten."""
    if broken:
        errors = sorted(error.removesuffix(REMOVE) for error in broken)
        raise UserError(listed(errors, 10, "; ") + REMOVE)


def bytes_of(name: str) -> bytes:
    """Return a name as bytes; in old archives and folders, it may be no UTF-8."""
    return name.encode(errors="surrogateescape")


def _ending(name: str) -> str:
    suffix = PurePosixPath(name).suffix.lower()
    return suffix if suffix and suffix.isprintable() else "file without an ending"


def _is_hidden(name: str) -> bool:
    """Recognize hidden files, and the folder that macOS adds to zip archives."""
    parts = PurePosixPath(name).parts
    return parts[:1] == ("__MACOSX",) or any(part.startswith(".") for part in parts)


# -- arrays ---------------------------------------------------------------------------------------


def located(path: str | Path) -> Path:
    """Return the path, or that of the prepared dataset of this name; UserError if there is none."""
    data = Path(f"data/{path}.h5")
    for each in (Path(path), data):
        if each.exists():
            return regular_file(each)
    raise UserError(f"{path}: no such file or folder, and no prepared dataset {data}")


def read_images(path: str | Path, silent: bool = False, side: int | None = None) -> np.ndarray:
    """Read all images, uint8 N×C×H×W, gray or RGB, in the order of the names or of the array.

    `psld.load_images` has the forms of the path, besides shards; `side` resizes pictures. Raises
    UserError if there are none, a file is damaged, or the images differ in size.
    """
    path = located(path)
    if side and path.suffix in (".h5", ".npz"):
        raise UserError(f"{path}: image_size is for folders and archives of pictures")
    if path.suffix == ".h5":
        return np.array(ImageStore.open(path).images("train"))
    if path.suffix == ".npz":
        arrays = read_npz(path, [IMAGES])
        if arrays is None:
            raise no_images(path)
        check_images(arrays[0], "N×H×W×C", f"{path}: {IMAGES}")
        return np.ascontiguousarray(arrays[0].transpose(0, 3, 1, 2))
    return _read_pictures(path, silent, side)


def _read_pictures(path: Path, silent: bool, side: int | None) -> np.ndarray:
    tree = FileTree(path)
    names, broken = tree.picture_names(), []

    def pixels(name: str) -> np.ndarray | None:
        try:
            image = tree.picture(name)
        except BrokenPicture as error:
            broken.append(str(error))
            return None
        image = to_channels(image, 1 if image.mode in ("1", "L", "LA") else 3)
        if side:  # as `psld prepare` does
            image = central_square(image).resize((side, side), Image.Resampling.LANCZOS)
        return np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)

    arrays = []
    # At an error, closing drops the pictures that are not begun, for which the pool would wait.
    with (
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
        closing(cast(Generator, pool.map(pixels, names))) as read,
        closing(Progress(f"reading {path}", "image", len(names), silent=silent)) as progress,
    ):
        for name, array in zip(names, read, strict=True):
            progress.update()
            if array is None:
                continue
            if arrays and array.shape[1:] != arrays[0].shape[1:]:
                sizes = size_text(array.shape[1:]), size_text(arrays[0].shape[1:])
                wrong = f"{name} has {sizes[0]} pixels, the first one {sizes[1]}"
                raise UserError(f"{path}: {wrong}; image_size=N takes N×N of the middle of each")
            arrays.append(array)
    refuse(broken)
    if len({len(array) for array in arrays}) > 1:  # Gray pictures become RGB if others are.
        arrays = [array.repeat(3 // len(array), axis=0) for array in arrays]
    return np.stack(arrays)


def check_images(images: np.ndarray, form: str, where: str) -> None:
    """Raise UserError, with `where`, unless images are bytes of the form N×C×H×W or N×H×W×C."""
    channels = images.shape[form.split("×").index("C")] if images.ndim == 4 and images.size else 0
    if images.dtype != np.uint8 or channels not in (1, 3):
        found = f"{images.dtype} of {size_text(images.shape)}"
        raise UserError(f"{where}: {found}; uint8 {form} with 1 or 3 channels is needed")


def size_text(shape: tuple[int, ...]) -> str:
    """Return a shape such as 8×8."""
    return "×".join(map(str, shape)) or "a number"


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


def names_in(path: str | Path) -> list[str]:
    """Return the names of the arrays in a whole .npz."""
    with np.load(path) as stored:
        return stored.files


def no_images(path: str | Path) -> UserError:
    """Return the error of a whole .npz without images, with what it has in their place."""
    names = ", ".join(names_in(path)) or "nothing"
    return UserError(f"{path}: no {IMAGES} in it, but {names:.100}; save the images as {IMAGES}")


def write_npz(path: str | Path, images: np.ndarray) -> None:
    """Write uint8 images N×C×H×W as others' evaluators read them: `arr_0`, N×H×W×C."""
    with atomic_path(path) as partial, partial.open("wb") as file:
        np.savez(file, images.transpose(0, 2, 3, 1))


@as_psld_errors()
def save_images(
    images: ArrayLike, path: str | Path, first: int = 0, source: str | None = None
) -> None:
    """Write uint8 images N×C×H×W into one picture PATH.png, or into a folder as 00000.png, …

        psld.save_images(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), "four.png")

    Args:
        first: the number of the first file of a folder.
        source: a digest of what made the images; None: that of the images themselves. Pictures
            carry it, and a folder takes those of one source alone.

    Raises UserError if the images are no bytes, or the folder holds other pictures.
    """
    images = array_of(images, f"{path}")
    check_images(images, "N×C×H×W", f"{path}")
    source = source or digest_of_arrays("images", {"images": images}, {})
    info = PngInfo()
    info.add_text(SOURCE, source)
    if is_single_picture(path, source):
        pictures = {Path(path): tiled(images, math.ceil(math.sqrt(len(images))))}
    else:
        names = (Path(path) / f"{first + i:05d}.png" for i in range(len(images)))
        pictures = dict(zip(names, images.transpose(0, 2, 3, 1), strict=True))
    files = [*pictures]
    for begin in range(0, len(files), FILES_AT_ONCE):
        some = files[begin : begin + FILES_AT_ONCE]
        with atomic_paths(some) as partials:
            for partial, file in zip(partials, some, strict=True):
                pixels = pictures[file]
                picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
                picture.save(partial, format="PNG", pnginfo=info)


def is_single_picture(path: str | Path, source: str) -> bool:
    """Return True if `save_images` writes one picture PATH, False if it writes into a folder.

    Raises UserError if it can do neither, or if the folder holds pictures of another source.
    """
    path = Path(path)
    single = (ending := path.suffix.lower()) == ".png"
    is_file = path.is_file() if path.exists() else ending in Image.registered_extensions()
    if is_file != single:
        raise UserError(f"{path}: images go into a folder, or into a file that ends in .png")
    other = None if single else next(path.glob("*.png"), None)  # All there are of one source.
    if other and decode(other.read_bytes(), f"{other}").info.get(SOURCE) != source:
        raise UserError(f"{path}: holds other pictures, such as {other.name}; name another folder")
    check_place(path if single else path / "00000.png")
    return single


def tiled(images: np.ndarray, columns: int) -> np.ndarray:
    """Arrange images N×C×H×W in rows of `columns`, with white around each; H′×W′×C."""
    enlarged = max(1, SHOWN // images.shape[3])
    images = images.repeat(enlarged, axis=2).repeat(enlarged, axis=3)
    count, channels, height, width = images.shape
    rows, margin = math.ceil(count / columns), max(1, width // 16)
    cell = height + margin, width + margin
    sheet = np.full((rows * columns, *cell, channels), 255, np.uint8)
    sheet[:count, margin:, margin:] = images.transpose(0, 2, 3, 1)
    sheet = sheet.reshape(rows, columns, *cell, channels).swapaxes(1, 2)
    sheet = sheet.reshape(rows * cell[0], columns * cell[1], channels)
    return np.pad(sheet, ((0, margin), (0, margin), (0, 0)), constant_values=255)
