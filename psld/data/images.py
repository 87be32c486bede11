"""Read and write images: pictures in folders and zip archives, .npz files, prepared datasets."""

import hashlib
import io
import math
import os
import re
import shlex
import sys
import tarfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path, PurePosixPath
from statistics import median
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

TENSOR_SUFFIX = ".npy"
PICTURE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# The formats that Pillow may decode. GIF and PPM files often have one of the suffixes above by
# mistake. Other formats are excluded, because Pillow runs external programs to read some of them.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# Pillow converts modes with more bits by clipping to 0…255, not by scaling.
_EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})

SHOWN = 64
"""The width in pixels to which `tiled` enlarges smaller images, so that no viewer blurs them."""
IMAGES = "arr_0"
"""The name of the image array in an .npz: numpy's default, used by guided-diffusion and EDM."""
REMOVE = "; remove or replace it"
FILES_AT_ONCE = 1000
"""The number of pictures that are flushed to disk at once."""
MAX_THREADS = 16
"""The largest number of threads that read pictures. More threads are not faster, because a single
thread collects the pictures."""
SLOW = 200e-6
"""If reading a picture takes longer, in seconds, then several threads are faster than one. Reading
a smaller picture is mostly Python code, in which the threads wait for each other."""
TIMED = 15
"""The number of pictures that are read to measure this time."""
SOURCE = "source"
"""The key of a PNG text chunk that holds a digest of the origin of the images."""


def decode(data: bytes, name: str) -> Image.Image:
    """Decode the first frame of a picture to 8 bits per channel, and apply its EXIF rotation.

    Raises BrokenPicture if the picture is damaged or larger than Pillow accepts. The message starts
    with `name`.
    """
    with reading(name, "broken picture", REMOVE, BrokenPicture):
        try:
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
        except UnidentifiedImageError:  # Replace Pillow's message, which contains a memory address.
            raise ValueError("not a picture") from None
        ImageOps.exif_transpose(image, in_place=True)  # This also decodes the pixels.
        if image.mode.startswith("I;16"):  # Keep the upper byte, as Pillow does for RGB.
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if image.mode not in _EIGHT_BIT_MODES:
            raise ValueError(f"mode {image.mode}, not 8 bits of gray, RGB or CMYK")
        return image


def to_channels(image: Image.Image, channels: int) -> Image.Image:
    """Convert a picture to gray (Rec. 601 luma) or RGB, with white behind transparent pixels."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    mode = "L" if channels == 1 else "RGB"
    # Call `convert` only if needed, because it copies an image that already has this mode.
    return image if image.mode == mode else image.convert(mode)


def as_image(picture: Any, where: str) -> Image.Image:
    """Convert a picture of a source to an 8-bit PIL image.

    Args:
        picture: a PIL image, or a uint8 array H×W or H×W×C.
        where: the start of the error message.

    Raises UserError if a channel has more than 8 bits, because Pillow would clip it.
    """
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture[:, :, 0] if picture.shape[2:] == (1,) else picture)
    if picture.mode not in _EIGHT_BIT_MODES:
        raise UserError(f"{where}: mode {picture.mode}, not 8 bits of gray, RGB or CMYK")
    return picture


def central_square(image: Image.Image, side: int | None = None) -> Image.Image:
    """Crop a picture to its central square. `side` is in pixels, by default the shorter side.

    A picture smaller than `side` is padded with black.
    """
    side = side or min(image.size)
    return _center(image, side, side)


def central_part(image: Image.Image, height: int, width: int) -> Image.Image:
    """Crop a picture to the largest central rectangle with the aspect ratio height : width."""
    if image.width * height > image.height * width:
        return _center(image, image.height, max(1, image.height * width // height))
    return _center(image, max(1, image.width * height // width), image.width)


def _center(image: Image.Image, height: int, width: int) -> Image.Image:
    left, top = int((image.width - width) / 2), int((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


class BrokenPicture(UserError):
    """A picture is damaged."""

    file: str | None = None
    """The path of the picture's own file; None for a picture in an archive or a dataset."""


class FileTree:
    """The regular files of a zip or tar archive, or of a folder and its subfolders.

    Links are followed, except links to a folder that contains the link. Hidden files are left out.
    All threads read from one open archive. Nothing is unpacked to disk. The files are pictures, or
    tensors (.npy) if there are no pictures.

    Raises UserError if `path` is neither a folder nor a complete archive.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._archive: zipfile.ZipFile | None = None
        self._places: dict[str, int] = {}
        """For a tar archive, the position of each file in the archive."""
        self._left_out: Counter[str] = Counter()
        if path.is_dir():
            sizes = dict(files_below(path, self._left_out))
        elif path.is_file() and not zipfile.is_zipfile(path) and tarfile.is_tarfile(path):
            with (
                reading(path, "no whole tar archive without compression"),
                tarfile.open(path, "r:") as archive,
            ):
                files = [each for each in archive if each.isfile()]
            sizes = {file.name.removeprefix("./"): file.size for file in files}
            self._places = {file.name.removeprefix("./"): file.offset_data for file in files}
        else:
            with reading(path, "neither a folder nor a whole zip or tar archive"):
                self._archive = zipfile.ZipFile(regular_file(path))
            # Of members with the same name, keep the size of the last one, which zipfile reads.
            members = [each for each in self._archive.infolist() if each.filename]
            sizes = {file.filename: file.file_size for file in members if not file.is_dir()}
        self.sizes = {name: sizes[name] for name in sorted(sizes) if not _is_hidden(name)}
        """The file sizes in bytes, by path relative to `path`, with / as the separator."""
        names = [name for name in self.sizes if name.lower().endswith(PICTURE_SUFFIXES)]
        tensors = [name for name in self.sizes if name.endswith(TENSOR_SUFFIX)]
        self._pictures = names or tensors

    def picture_names(self) -> list[str]:
        """Return the sorted names of the pictures, and print how many other files are left out.

        Raises UserError if no file has the suffix of a picture.
        """
        others = Counter(map(_ending, sorted(self.sizes.keys() - set(self._pictures))))
        others += self._left_out
        counts = ", ".join(f"{count} × {kind}" for kind, count in others.most_common(5))
        left_out = f"left out: {counts}{', …' if len(others) > 5 else ''}" if others else ""
        if not self._pictures:
            ends = f"pictures end in {', '.join(PICTURE_SUFFIXES)}, tensors in {TENSOR_SUFFIX}"
            found = left_out and f" ({left_out})"
            raise UserError(f"{self.path}: contains no pictures; {ends}{found}")
        if left_out:
            print(f"{self.path}: {left_out}", file=sys.stderr)
        return self._pictures

    def listing(self) -> str:
        """Return a text with the number of pictures, and a digest of their names and file sizes."""
        lines = "".join(f"{self.sizes[name]} {name}\0" for name in self._pictures)
        digest = hashlib.sha256(bytes_of(lines)).hexdigest()
        return f"{len(self._pictures):,} pictures, names and sizes {digest[:12]}"

    def read(self, name: str) -> bytes:
        """Read a file. Raises BrokenPicture if the file is unreadable or has a wrong checksum."""
        path = f"{self.path}/{name}"
        with reading(path, "cannot be read", REMOVE, BrokenPicture):
            if self._archive:
                return self._archive.read(name)
            if self._places:
                with self.path.open("rb") as file:
                    file.seek(self._places[name])
                    return file.read(self.sizes[name])
            with open(path, "rb", buffering=0) as file:  # noqa: PTH123 (Path.open is slower)
                return file.read()

    def picture(self, name: str) -> Image.Image:
        """Read and decode a picture. Raises BrokenPicture if the picture is damaged."""
        try:
            return decode(self.read(name), f"{self.path}/{name}")
        except BrokenPicture as error:
            is_member = self._archive or self._places
            error.file = None if is_member else f"{self.path}/{name}"
            raise

    def loaded(self, name: str) -> "Image.Image | np.ndarray":
        """Read a picture or a tensor. Raises UserError if the file is damaged."""
        if not name.endswith(TENSOR_SUFFIX):
            return self.picture(name)
        with reading(f"{self.path}/{name}", "not a valid .npy of numbers"):
            return np.load(io.BytesIO(self.read(name)), allow_pickle=False)


def reading_threads(read: Callable[[int], object], count: int) -> int:
    """Return the number of threads that read pictures fastest. `read(i)` reads picture i."""
    times = []
    for i in range(min(TIMED, count)):
        started = time.perf_counter()
        read(i)
        times.append(time.perf_counter() - started)
    return min(MAX_THREADS, len(os.sched_getaffinity(0))) if median(times) > SLOW else 1


def refuse(broken: Mapping[str, str | None]) -> None:
    """Raise UserError if any picture is broken.

    The message lists at most ten errors. If the message lists all errors, and each picture is a
    separate file, the message also contains a command that removes these files.

    Args:
        broken: maps the text of each error to `BrokenPicture.file`.
    """
    if not broken:
        return
    errors = [error.removesuffix(REMOVE) for error in sorted(broken)]
    files = [broken[error] for error in sorted(broken)]
    remedy = REMOVE if len(errors) == 1 else "; remove or replace them"
    if len(files) <= 10 and all(files):
        remedy += f": {shlex.join(['rm', *map(str, files)])}"
    raise UserError(listed(errors, 10, "; ") + remedy)


def bytes_of(name: str) -> bytes:
    """Encode a file name. Names in old archives and folders may not be UTF-8."""
    return name.encode(errors="surrogateescape")


def _ending(name: str) -> str:
    suffix = PurePosixPath(name).suffix.lower()
    return suffix if suffix and suffix.isprintable() else "file without an ending"


def _is_hidden(name: str) -> bool:
    """Check for hidden files and for the folder that macOS adds to zip archives."""
    return bool(re.search(r"^__MACOSX/|(^|/)\.[^/]", name))


# -- arrays ---------------------------------------------------------------------------------------


def located(path: str | Path) -> Path:
    """Return `path` if it exists, else the file of the prepared dataset with this name.

    Raises UserError if neither exists.
    """
    data = Path(f"data/{path}.h5")
    for each in (Path(path), data):
        if each.exists():
            return regular_file(each)
    raise UserError(f"{path}: no such file or folder, and no prepared dataset {data}")


def read_images(path: str | Path, silent: bool = False, side: int | None = None) -> np.ndarray:
    """Read all images, N×C×H×W, in the order of the file names or the array.

    Pictures are uint8, gray or RGB; tensors are floats.

    Args:
        path: any path that `psld.load_images` accepts, except a folder of shards.
        silent: show no progress bar.
        side: crop each picture to its central square and resize it to `side` pixels.

    Raises UserError if there are no images, a file is damaged, or the images differ in size.
    """
    path = located(path)
    if side and path.suffix in (".h5", ".npz"):
        raise UserError(f"{path}: image_size applies only to folders and archives of pictures")
    if path.suffix == ".h5":
        return np.array(ImageStore.open(path).images("train"))
    if path.suffix == ".npz":
        arrays = read_npz(path, [IMAGES])
        if arrays is None:
            raise no_images(path)
        if are_tensors(arrays[0]):
            return arrays[0]
        check_images(arrays[0], "N×H×W×C", f"{path}: {IMAGES}")
        return np.ascontiguousarray(arrays[0].transpose(0, 3, 1, 2))
    return _read_pictures(path, silent, side)


def _read_pictures(path: Path, silent: bool, side: int | None) -> np.ndarray:
    tree = FileTree(path)
    names, broken = tree.picture_names(), dict[str, str | None]()

    def pixels(name: str) -> np.ndarray | None:
        try:
            image = tree.picture(name)
        except BrokenPicture as error:
            broken[str(error)] = error.file
            return None
        image = to_channels(image, 1 if image.mode in ("1", "L", "LA") else 3)
        if side:  # as `psld prepare` does
            image = central_square(image).resize((side, side), Image.Resampling.LANCZOS)
        return np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)

    images, first = cast(np.ndarray, None), ""
    remedy = "image_size=N crops pictures to their central squares and resizes them"
    with (
        closing(_each(pixels, names)) as read,
        closing(Progress(f"reading {path}", "image", len(names), silent=silent)) as progress,
    ):
        for i, (name, array) in enumerate(zip(names, read, strict=True)):
            progress.update()
            if array is None:
                continue
            size = size_text(array.shape[:0:-1])
            if images is None:
                first = f"{name} is {size} pixels (width×height)"
                try:
                    images = np.empty((len(names), *array.shape), np.uint8)
                except MemoryError:
                    wrong = f"{len(names)} pictures of this size do not fit into memory"
                    raise UserError(f"{path}: {first}; {wrong}; {remedy}") from None
            if array.shape[1:] != images.shape[2:]:
                raise UserError(f"{path}: {first}, {name} is {size}; {remedy}")
            if len(array) > len(images[0]):  # Gray pictures become RGB if any picture is RGB.
                images = images.repeat(len(array), axis=1)
            images[i] = array
    refuse(broken)
    return images


def _each(read: Callable[[str], Any], names: Sequence[str]) -> Generator[Any]:
    """Read pictures in order.

    Closing the generator cancels the pending pictures. Otherwise, an error would end the program
    only after all of them have been read.
    """
    threads = reading_threads(lambda i: read(names[i]), len(names))
    if threads == 1:
        yield from map(read, names)
    else:
        with ThreadPoolExecutor(threads) as pool:
            yield from pool.map(read, names)


def are_tensors(images: np.ndarray) -> bool:
    """Return True if an array holds tensors, which are floats N×C×H×W."""
    return images.dtype.kind == "f" and images.ndim == 4 and images.size > 0


def check_images(images: np.ndarray, form: str, where: str) -> None:
    """Raise UserError unless the images are uint8 and have 1 or 3 channels.

    Args:
        form: the order of the dimensions, N×C×H×W or N×H×W×C.
        where: the start of the error message.
    """
    channels = images.shape[form.split("×").index("C")] if images.ndim == 4 and images.size else 0
    if images.dtype != np.uint8 or channels not in (1, 3):
        found = f"{images.dtype} of {size_text(images.shape)}"
        raise UserError(f"{where}: {found}; uint8 {form} with 1 or 3 channels is needed")


def size_text(shape: tuple[int, ...]) -> str:
    """Format a shape, such as 8×8."""
    return "×".join(map(str, shape)) or "a number"


def read_npz(path: str | Path, names: Sequence[str]) -> list[np.ndarray] | None:
    """Read arrays of an .npz by name; return None if an array is missing. Nothing is unpickled.

    Raises UserError if the file is missing, damaged or has pickled objects. Raises RunError if an
    array does not fit into memory, according to the size in its header.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return [stored[name] for name in names] if {*names} <= {*stored.files} else None
    except Exception as error:  # Damaged files can raise nearly any error.
        reraise_fault(error, path)
        reason = "it has pickled objects, which can run code" if "pickle" in str(error) else error
        raise UserError(f"{path}: not a valid .npz of arrays ({reason})") from None


def names_in(path: str | Path) -> list[str]:
    """Return the names of the arrays in an .npz."""
    with np.load(path) as stored:
        return stored.files


def no_images(path: str | Path) -> UserError:
    """Return the error for an .npz without images. The message names the arrays in the file."""
    found = f"no array {IMAGES} in it, but {', '.join(names_in(path)) or 'nothing':.100}"
    return UserError(f"{path}: {found}; save the images as {IMAGES}")


def write_npz(path: str | Path, images: np.ndarray) -> None:
    """Write images N×C×H×W into an .npz as the array `arr_0`.

    uint8 images are stored as N×H×W×C, the order that other evaluators read. The order of floats
    does not change.
    """
    with atomic_path(path) as partial, partial.open("wb") as file:
        np.savez(file, images.transpose(0, 2, 3, 1) if images.dtype == np.uint8 else images)


@as_psld_errors()
def save_images(
    images: ArrayLike, path: str | Path, first: int = 0, source: str | None = None
) -> None:
    """Write uint8 images N×C×H×W into one picture PATH.png, or into a folder as 00000.png, …

        psld.save_images(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), "four.png")

    Args:
        first: the number of the first file in a folder.
        source: a digest of the origin of the images; by default, the digest of the images. The
            digest is stored in each picture. A folder accepts only pictures with the same digest.

    Raises UserError if the images are not uint8, or the folder holds pictures with another digest.
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
    """Return True if `save_images` writes one picture to `path`, False if it writes into a folder.

    Raises UserError if `path` is neither a .png file nor a folder, or if the folder holds pictures
    with another source.
    """
    path = Path(path)
    single = (ending := path.suffix.lower()) == ".png"
    is_file = path.is_file() if path.exists() else ending in Image.registered_extensions()
    if is_file != single:
        raise UserError(f"{path}: images go into a folder, or into a file that ends in .png")
    # Check only one picture, because all pictures in a folder have the same source.
    other = None if single else next(path.glob("*.png"), None)
    if other and decode(other.read_bytes(), f"{other}").info.get(SOURCE) != source:
        raise UserError(f"{path}: holds other pictures, such as {other.name}; name another folder")
    check_place(path if single else path / "00000.png")
    return single


def tiled(images: np.ndarray, columns: int) -> np.ndarray:
    """Arrange images N×C×H×W in rows of `columns` images with white margins; return H′×W′×C."""
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
