"""Settings of a dataset and of its preparation, checked without torch or any image library."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from psld.config.parts import FREE_NAMES, Part
from psld.config.settings import FREE, Name, Settings

if TYPE_CHECKING:
    import torch

Root = Annotated[str, AfterValidator(os.path.expanduser)]
"""A path. A leading ~ is replaced by the home directory."""

FilterName = Literal["lanczos", "bicubic", "bilinear", "box"]


@dataclass(frozen=True)
class Images:
    """The images of a dataset: sequences of pairs (picture, label).

    A picture is a PIL image, a uint8 array H×W or H×W×C with 1, 3 or 4 channels, or a function
    that returns such an image or array. PIL images are cropped to their centers. In a dataset of
    tensors (dtype float32), a picture is an array of floats C×H×W or H×W, or a function that
    returns such an array. A label is an index into `class_names`, or 0 if there are no classes.

    `psld prepare` reads each pair once, one pair at a time, in any order. The command calls
    the functions from several threads and holds only a few pictures in memory. A source that reads
    files should therefore read each file inside such a function.

    A sequence may also have `shape` (H×W×C, the same for all pictures), `pixels(range)` (returns
    uint8 n×H×W×C) and `labels`. If `shape` is the shape of the dataset's images, `psld prepare`
    reads many pictures at a time with `pixels`. For tensors, `shape` is C×H×W, and `pixels` returns
    floats n×C×H×W.
    """

    train: Sequence[tuple[Any, int]]
    test: Sequence[tuple[Any, int]] = ()
    class_names: Sequence[str] = ()


class Source(Part):
    """The source of a dataset's images."""

    noun = "source"
    squeezes: ClassVar[bool] = False
    """True if pictures that are not square are resized directly, without cropping them to their
    central square."""
    has_test: ClassVar[bool] = True
    """False if the source has no test split. A custom source may set this attribute. In `Folder`
    and `Array`, the attribute is a property that depends on `test_fraction`, and subclasses may
    override the property."""

    kind: str

    @property
    def encoded(self) -> str | None:
        """The name of the prepared dataset whose pictures the autoencoder encodes; None for a
        source that needs no autoencoder."""
        return None

    def open(self) -> Images:
        """Return the images; `psld prepare` calls this once.

        Raises UserError if files are missing; the message names the files and where to get them.
        """
        raise NotImplementedError

    def seen(self) -> str:
        """Return a text that changes whenever the images change.

        The text is empty if the images never change. This method must be fast: each workflow run
        compares the current text with the text that `psld prepare` has recorded, and reports a
        difference.
        """
        return ""


class Autoencoder(Part):
    """Decodes tensors of a dataset to pictures. For source=prepared, also encodes pictures.

    Declare the weights file as a `WeightsFile`. The digests of encoded and decoded data then
    include the SHA-256 of this file.
    """

    noun = "autoencoder"

    kind: str

    def build(self, device: "torch.device") -> Any:
        """Return an object on the device, such as a module, with these methods:

        decode(x): float32 tensors N×C×H×W, in the units of the data → uint8 pictures N×C′×H′×W′.
        encode(pictures): uint8 N×C′×H′×W′ → float tensors N×C×H×W; needed for source=prepared.

        The methods are called without gradients, with a batch of tensors on the device.
        """
        raise NotImplementedError


class DatasetSettings(Settings):
    """The dataset settings that training and evaluation use, and the source of the images."""

    name: Name
    """Name of the dataset and of its files: letters, digits, dots, dashes and underscores."""
    dtype: Literal["uint8", "float32"] = Field("uint8", exclude_if=lambda dtype: dtype == "uint8")
    """uint8: pictures. float32: tensors, such as latents, fields or spectrograms. Networks see
    standardized tensors: each channel has mean 0 and standard deviation 1 over the training split.
    """
    channels: PositiveInt
    """Number of channels: 1 for gray pictures, 3 for RGB pictures, any number for tensors."""
    image_size: PositiveInt | tuple[PositiveInt, PositiveInt]
    """Side of square images in pixels, or [HEIGHT, WIDTH]."""
    num_classes: int = Field(ge=0)
    """Number of classes; 0 ignores the labels of the source."""
    flip: bool
    """Mirror each training image left to right with probability 1/2."""
    filter: FilterName | None
    """Filter for resizing pictures to `image_size`. Null: pictures of other sizes are an error."""
    source: Source
    """The source of the images."""
    decode: Annotated[Autoencoder | None, FREE] = Field(None, exclude_if=lambda part: part is None)
    """Autoencoder that decodes the tensors of the dataset to pictures, for figures and for metrics
    such as FID. With the source `prepared`, the autoencoder also encodes pictures to tensors."""

    @model_validator(mode="after")
    def _check_dtype(self) -> Self:
        if self.dtype == "uint8" and self.channels not in (1, 3):
            wrong = f"channels: pictures have 1 or 3, not {self.channels}"
            raise ValueError(f"{wrong}; for tensors, set dtype to float32")
        if self.dtype == "uint8" and self.decode:
            raise ValueError("decode: only tensors are decoded; set dtype to float32")
        if self.source.encoded and not self.decode:
            raise ValueError("decode: missing; its encode makes the tensors of source=prepared")
        return self

    @model_validator(mode="before")
    @classmethod
    def _as_side(cls, content: Any) -> Any:
        """Replace the equal height and width of square images by one number."""
        size = content.get("image_size") if isinstance(content, dict) else None
        if isinstance(size, list | tuple) and len({*size}) == 1:
            return content | {"image_size": size[0]}
        return content

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of an image, C×H×W."""
        size = self.image_size
        return (self.channels, *((size, size) if isinstance(size, int) else size))

    def preparation(self) -> dict[str, Any]:
        """Return all settings that affect the prepared file, as JSON values.

        The name, the flips and the free settings of the source do not affect the file. The
        autoencoder affects the file only if it encodes the pictures of the source.
        """
        content = self.model_dump(mode="json", exclude={"name", "flip", "decode"})
        if self.decode and self.source.encoded:
            content["decode"] = self.decode.identity()
        named = content["source"].get(FREE_NAMES, ())  # the free settings of a custom source
        free = self.source.free() | {FREE_NAMES, *named}
        source = {key: value for key, value in content["source"].items() if key not in free}
        return content | {"source": source}


class PrepareSettings(Settings):
    """Settings of `psld prepare`."""

    dataset: DatasetSettings
    output: Annotated[str, FREE] = Field(pattern=r"\.h5$")
    """The HDF5 file to write. The record (.json) of the dataset is written next to this file."""
    replace: Annotated[bool, FREE] = False
    """Replace an existing dataset that has other settings or other images."""
