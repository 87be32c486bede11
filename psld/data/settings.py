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
    that returns one of these; it is cropped to its central square. A label is an index into
    `class_names`, or 0 if there are no classes.

    `psld prepare` indexes each pair once, one at a time, in any order. It calls functions from
    several threads and holds only a few pictures in memory, so read files in a function.

    A sequence may also have `shape` (H×W×C, the same for all pictures), `pixels(range)` (returns
    uint8 n×H×W×C) and `labels`. If `shape` is the shape of the dataset's images, they are read many
    at a time this way.
    """

    train: Sequence[tuple[Any, int]]
    test: Sequence[tuple[Any, int]] = ()
    class_names: Sequence[str] = ()


class Source(Part):
    """Where the images of a dataset come from."""

    noun = "source"
    squeezes: ClassVar[bool] = False
    """Resize pictures that are not square without cropping them to their central square."""
    has_test: ClassVar[bool] = True
    """False if the source has no test split. A custom source may set it, and may override the
    property of `Folder` or `Array`, which depends on `test_fraction`."""

    kind: str

    def open(self) -> Images:
        """Find the images; `psld prepare` calls this once.

        Raises UserError that names the missing files and where to get them.
        """
        raise NotImplementedError

    def seen(self) -> str:
        """Return a text that changes with the images; an empty text if they never change.

        It must be fast: each workflow run compares it with the text at the time of the preparation,
        and reports a difference.
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
    """Mirror each training image left to right with probability 1/2."""
    filter: FilterName | None
    """Filter that resizes pictures to `image_size`. Null: pictures of other sizes are an error."""
    source: Source
    """The source of the images."""

    def preparation(self) -> dict[str, Any]:
        """Return all settings that change the prepared file, ready for JSON.

        The name, the flips and the free settings of the source do not change it.
        """
        content = self.model_dump(mode="json", exclude={"name", "flip"})
        named = content["source"].get(FREE_NAMES, ())  # of a custom source
        free = self.source.free() | {FREE_NAMES, *named}
        source = {key: value for key, value in content["source"].items() if key not in free}
        return content | {"source": source}


class PrepareSettings(Settings):
    """Settings of `psld prepare`."""

    dataset: DatasetSettings
    output: Annotated[str, FREE] = Field(pattern=r"\.h5$")
    """The HDF5 file to write. Its record, ending .json, is written next to it."""
    replace: Annotated[bool, FREE] = False
    """Replace an existing dataset that has other settings or other images."""
