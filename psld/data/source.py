"""Images and labels in a fixed order, as every source gives them to the preparation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from psld.data.archive import FileTree
from psld.data.picture import central_square, decode

Frame = Callable[[Image.Image], Image.Image]
"""Crops or pads a picture."""


@dataclass(frozen=True, eq=False)
class Picture:
    """An image that is read when it is needed."""

    read: Callable[[], Image.Image]
    """The image, framed but not resized. Called from several threads. Raises BrokenPicture."""
    label: int = 0
    """An index of `class_names`; 0 if the source has no classes."""


@dataclass(frozen=True)
class Source:
    """The images of a dataset."""

    train: Sequence[Picture]
    test: Sequence[Picture]
    class_names: tuple[str, ...]
    """Empty if the source has no classes."""
    checksums: Mapping[str, str]
    """SHA-256 of each file or folder that the images come from."""


def pictures_of(
    images: np.ndarray, labels: np.ndarray, frame: Frame = lambda image: image
) -> list[Picture]:
    """Return images in memory, uint8 n×H×W for gray or n×H×W×3 for RGB, as pictures."""

    def picture(image: np.ndarray, label: int) -> Picture:
        return Picture(lambda: frame(Image.fromarray(image)), int(label))

    return list(map(picture, images, labels))


def picture_in(tree: FileTree, name: str, label: int = 0, frame: Frame = central_square) -> Picture:
    """Return a picture that is read from its own file."""
    return Picture(lambda: frame(decode(tree.read(name), f"{tree.path}/{name}")), label)
