"""Images that other software brings: scikit-learn's digits and photographs, Debian's emoji."""

import io
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from psld.data.images import decode
from psld.utils.errors import UserError

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]
"""Pixels, uint8 n×H×W(×3), labels, n, booleans of the test split, n, and the classes' names."""

DIGITS = tuple("0123456789")
PHOTOS = ("china", "flower")
BITMAPS = 109
"""The size of the font whose bitmaps are taken as they are, 136×128 with empty outer columns."""


def in_sklearn(file: str) -> Path:
    """Return the path of a file in sklearn.datasets."""
    sklearn: Any = find_spec("sklearn")  # Importing it takes a second.
    return Path(sklearn.submodule_search_locations[0], "datasets", file)


def read_digits() -> Arrays:
    """Return scikit-learn's 1,797 digits, 8×8: every fifth of the images sorted by class is a test.

    The file itself repeats 0…9, so every fifth of it would be a zero or a five.
    """
    # Each line has the 64 values of an image, then its class.
    lines = np.loadtxt(in_sklearn("data/digits.csv.gz"), delimiter=",")
    images = np.round(lines[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = lines[:, -1].astype(int)
    in_test = np.zeros(len(images), dtype=bool)
    in_test[np.argsort(labels, kind="stable")[::5]] = True
    return images, labels, in_test, DIGITS


def read_photos(side: int) -> Arrays:
    """Return patches of scikit-learn's two photographs, row by row; none overlaps another.

    Neighbors look alike, so whole regions are a test: one in each row of a photograph's 4×5.
    """
    paths = [in_sklearn(f"images/{name}.jpg") for name in PHOTOS]
    photos = np.stack([np.asarray(decode(path.read_bytes(), f"{path}")) for path in paths])
    rows, columns = (length // side for length in photos.shape[1:3])
    cut = photos[:, : rows * side, : columns * side].reshape(2, rows, side, columns, side, 3)
    label, row, column = (each.ravel() for each in np.indices((2, rows, columns)))
    in_test = (2 * (4 * row // rows) + 5 * column // columns) % 5 == 0
    return cut.swapaxes(2, 3).reshape(-1, side, side, 3), label, in_test, PHOTOS


def read_emoji(root: Path) -> Arrays:
    """Return the emoji of one character in Debian's font, 128×128; classes are Unicode's groups.

    Flags, families and skin tones have several characters. Every fifth is a test. Raises UserError
    if the font, or Unicode's list, is missing or no such file.
    """
    try:
        # A path would be searched for among the machine's fonts, too.
        file = io.BytesIO((root / "fonts/truetype/noto/NotoColorEmoji.ttf").read_bytes())
        font = ImageFont.truetype(file, BITMAPS, layout_engine=ImageFont.Layout.BASIC)
        listed = (root / "unicode/emoji/emoji-test.txt").read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{root}: no Noto Color Emoji with Unicode's list of them ({error}); apt-get install "
            "fonts-noto-color-emoji unicode-data, or unpack both and set dataset.source.root"
        ) from None
    single = re.compile("^([0-9A-F]+)(?: FE0F)? +; fully-qualified", re.MULTILINE)
    found = {part.partition("\n")[0]: single.findall(part) for part in listed.split("# group: ")}
    groups = {name: points for name, points in found.items() if points}
    if not groups:
        raise UserError(f"{root}/unicode/emoji/emoji-test.txt: not Unicode's list; get it again")

    def drawn(point: str) -> np.ndarray:
        image, text = Image.new("RGB", (128, 128), "white"), chr(int(point, 16))
        ImageDraw.Draw(image).text((-4, 0), text, font=font, embedded_color=True)
        return np.asarray(image)

    images = np.array([drawn(point) for points in groups.values() for point in points])
    labels = np.repeat(range(len(groups)), list(map(len, groups.values())))
    return images, labels, np.arange(len(labels)) % 5 == 0, tuple(groups)
