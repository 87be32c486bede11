"""Settings of a dataset and of its preparation, checked without torch or any image library."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from psld.config.parts import FREE_NAMES, Part
from psld.config.settings import FREE, Name, Settings

Root = Annotated[str, AfterValidator(os.path.expanduser)]
"""A path; ~ is the user's home."""

FilterName = Literal["lanczos", "bicubic", "bilinear", "box"]


@dataclass(frozen=True)
class Images:
    """The images of a dataset: sequences of pairs (picture, label).

    A picture is a PIL image, a uint8 array H×W or H×W×C with 1, 3 or 4 channels, or a function
    that returns one of these; its central square is taken. A label is an index of
    `class_names`; 0 if there are none.

    `psld prepare` asks for each pair once, for one at a time and in any order. It calls functions
    in several threads at once, and holds a few pictures: reading belongs into a function.

    A sequence with `shape`, H×W×C of each of its pictures, also has them many at once, by
    `pixels(range)`, uint8 n×H×W×C, and `labels`: so those of the dataset's own size are read.
    """

    train: Sequence[tuple[Any, int]]
    test: Sequence[tuple[Any, int]] = ()
    class_names: Sequence[str] = ()


class Source(Part):
    """Where the images of a dataset come from."""

    noun = "source"
    squeezes: ClassVar[bool] = False
    """Squeeze pictures that are not square, instead of taking their central squares."""
    has_test: ClassVar[bool] = True
    """False if no image is held out for the test split, which of some sources a setting says. Yours
    may say it below `Folder` or `Array`, too."""

    kind: str

    def open(self) -> Images:
        """Find the images; `psld prepare` calls it once. Raises UserError that says what to get."""
        raise NotImplementedError

    def seen(self) -> str:
        """Return a text that changes with the images, quickly: `psld` compares it before each run.

        If it is another than at the preparation, a line says so. Empty: the images never change.
        """
        return ""


class DatasetSettings(Settings):
    """A dataset as training and evaluation see it, and the source of its images."""

    name: Name
    """Name of the dataset and of its files: letters, digits, dots, dashes and underscores."""
    channels: Literal[1, 3]
    """1 for gray, 3 for red, green and blue."""
    image_size: int = Field(gt=0)
    """Width and height in pixels."""
    num_classes: int = Field(ge=0)
    """Number of classes; 0 ignores the labels of the source."""
    flip: bool
    """Mirror half of the training images, left to right."""
    filter: FilterName | None
    """Filter of the antialiased resizing to `image_size`. Null: no other size is accepted."""
    source: Source
    """The source of the images."""

    def preparation(self) -> dict[str, Any]:
        """Return all settings that change the prepared file, ready for JSON.

        Name, flips and the source's free settings do not change it.
        """
        content = self.model_dump(mode="json", exclude={"name", "flip"})
        named = content["source"].get(FREE_NAMES, ())  # by a custom source
        free = self.source.free() | {FREE_NAMES, *named}
        source = {key: value for key, value in content["source"].items() if key not in free}
        return content | {"source": source}


class PrepareSettings(Settings):
    """Settings of `psld prepare`."""

    dataset: DatasetSettings
    output: Annotated[str, FREE] = Field(pattern=r"\.h5$")
    """The HDF5 file to make. A record of its making, ending .json, is written next to it."""
    replace: Annotated[bool, FREE] = False
    """Replace a dataset that is there by one of other settings or of other images."""
