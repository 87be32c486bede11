"""Settings of a dataset and of its preparation, checked without torch or any image library."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from psld.config.parts import FREE_NAMES, Part
from psld.config.settings import FREE, Name, Settings

Root = Annotated[str, AfterValidator(os.path.expanduser)]
"""A path, in which ~ is replaced by the home directory."""

FilterName = Literal["lanczos", "bicubic", "bilinear", "box"]


@dataclass(frozen=True)
class Images:
    """The images of a dataset: sequences of pairs (picture, label).

    A picture is a PIL image, a uint8 array H×W or H×W×C with 1, 3 or 4 channels, or a function
    that returns such an image or array. Pictures are cropped to their central squares. A label is
    an index into `class_names`, or 0 if there are no classes.

    `psld prepare` reads each pair once, one pair at a time, in any order. It calls the functions
    from several threads and holds only a few pictures in memory, so read files in a function.

    A sequence may also have `shape` (H×W×C, the same for all pictures), `pixels(range)` (returns
    uint8 n×H×W×C) and `labels`. If `shape` is the shape of the dataset's images, `psld prepare`
    reads many pictures at a time with `pixels`.
    """

    train: Sequence[tuple[Any, int]]
    test: Sequence[tuple[Any, int]] = ()
    class_names: Sequence[str] = ()


class Source(Part):
    """The source of a dataset's images."""

    noun = "source"
    squeezes: ClassVar[bool] = False
    """True if pictures that are not square are resized without being cropped to their central
    square."""
    has_test: ClassVar[bool] = True
    """False if the source has no test split. A custom source may set this attribute. In `Folder`
    and `Array`, the attribute is a property that depends on `test_fraction`, and subclasses may
    override the property."""

    kind: str

    def open(self) -> Images:
        """Return the images; `psld prepare` calls this once.

        Raises UserError if files are missing; the message names the files and where to get them.
        """
        raise NotImplementedError

    def seen(self) -> str:
        """Return a text that changes whenever the images change; empty if they never change.

        This method must be fast: each workflow run compares the text with the text at the time of
        the preparation, and reports a difference.
        """
        return ""


class DatasetSettings(Settings):
    """The dataset settings that training and evaluation use, and the source of the images."""

    name: Name
    """Name of the dataset and of its files: letters, digits, dots, dashes and underscores."""
    channels: Literal[1, 3]
    """1 for gray, 3 for red, green and blue."""
    image_size: int = Field(gt=0)
    """Width and height in pixels."""
    num_classes: int = Field(ge=0)
    """Number of classes; 0 ignores the labels of the source."""
    flip: bool
    """Mirror each training image left to right with probability 1/2."""
    filter: FilterName | None
    """Filter with which pictures are resized to `image_size`. Null: pictures of other sizes are an
    error."""
    source: Source
    """The source of the images."""

    def preparation(self) -> dict[str, Any]:
        """Return all settings that affect the prepared file, as JSON values.

        The name, the flips and the free settings of the source do not affect the file.
        """
        content = self.model_dump(mode="json", exclude={"name", "flip"})
        named = content["source"].get(FREE_NAMES, ())  # the free settings of a custom source
        free = self.source.free() | {FREE_NAMES, *named}
        source = {key: value for key, value in content["source"].items() if key not in free}
        return content | {"source": source}


class PrepareSettings(Settings):
    """Settings of `psld prepare`."""

    dataset: DatasetSettings
    output: Annotated[str, FREE] = Field(pattern=r"\.h5$")
    """The HDF5 file to write. Its record (.json) is written next to it."""
    replace: Annotated[bool, FREE] = False
    """Replace an existing dataset that has other settings or other images."""
