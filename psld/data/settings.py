"""Settings of a dataset and of its preparation, checked without torch or any image library."""

import os
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from psld.config.settings import FREE, Name, Settings

Root = Annotated[str, AfterValidator(os.path.expanduser)]
"""A path; ~ is the user's home."""

FilterName = Literal["lanczos", "bicubic", "bilinear", "box"]


class DigitsSource(Settings):
    """The 1,797 handwritten digits (8×8, 10 classes) that scikit-learn ships."""

    kind: Literal["digits"]


class PhotosSource(Settings):
    """Patches of scikit-learn's two photographs, the classes (427×640); a fifth is for testing."""

    kind: Literal["photos"]
    side: int = Field(gt=0, le=106)
    """Width and height of a patch, in pixels; at most those of a region, 106×128."""


class EmojiSource(Settings):
    """Noto Color Emoji of one character (128×128, on white), in Unicode's 9 groups."""

    kind: Literal["emoji"]
    root: Root = "/usr/share"
    """Folder with the files of Debian's packages fonts-noto-color-emoji and unicode-data."""


class MNISTSource(Settings):
    """MNIST: 60,000 + 10,000 handwritten digits (28×28, 10 classes), IDX files."""

    kind: Literal["mnist"]
    root: Root = "downloads/mnist"
    """Folder of the four IDX files, gzipped or not."""
    download: bool = True
    """Let torchvision download missing files."""
    pad: int | None = Field(None, ge=28)
    """Side, in pixels, of the black square in which the image is centered before any resizing."""


class FashionMNISTSource(MNISTSource):
    """Fashion-MNIST: 60,000 + 10,000 pictures of clothes (28×28, 10 classes), IDX files."""

    kind: Literal["fashion-mnist"]
    root: Root | None = None
    """Folder of the four IDX files, gzipped or not. Null: the folder of Debian's package
    dataset-fashion-mnist if it is installed, else downloads/fashion-mnist."""
    pad: int | None = Field(32, ge=28)


class CIFAR10Source(Settings):
    """CIFAR-10: 50,000 + 10,000 photographs (32×32, 10 classes), the Python version."""

    kind: Literal["cifar10"]
    root: Root = "downloads/cifar10"
    """Folder that holds the archive or the unpacked folder."""
    download: bool = True
    """Let torchvision download the archive if it is missing, and unpack it."""


class CelebASource(Settings):
    """CelebA, aligned: 202,599 faces (178×218) as JPEG, all for training, squeezed to a square."""

    kind: Literal["celeba"]
    root: Root = "downloads/celeba"
    """Folder that holds img_align_celeba.zip or the unpacked folder img_align_celeba."""


class AFHQv2Source(Settings):
    """AFHQv2: animal faces (512×512) as PNG, in train/ and test/, in three classes."""

    kind: Literal["afhqv2"]
    root: Root = "downloads/afhqv2"
    """Folder that holds afhq_v2.zip or the unpacked folders train and test."""


class FolderSource(Settings):
    """Any folder or zip archive of pictures; the first level of subfolders, if any, are classes.

    A single folder around all of them is left out.
    """

    kind: Literal["folder"]
    root: Root
    """The folder or zip archive."""
    test_fraction: float = Field(0.0, ge=0, lt=1)
    """The part of the pictures that is held out for the test split, chosen by the files' names."""


SourceSettings = Annotated[
    DigitsSource
    | PhotosSource
    | EmojiSource
    | FashionMNISTSource
    | MNISTSource
    | CIFAR10Source
    | CelebASource
    | AFHQv2Source
    | FolderSource,
    Field(discriminator="kind"),
]


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
    source: SourceSettings
    """The source of the images."""

    def preparation(self) -> dict[str, Any]:
        """Return all settings that change the prepared file, ready for JSON.

        Name, flips and downloads do not change it, nor does the path of a published dataset.
        """
        content = self.model_dump(mode="json", exclude={"name", "flip"})
        content["source"].pop("download", None)
        if self.source.kind != "folder":
            content["source"].pop("root", None)
        return content


class PrepareSettings(Settings):
    """Settings of `psld prepare`."""

    dataset: DatasetSettings
    output: Annotated[str, FREE] = Field(pattern=r"\.h5$")
    """The HDF5 file to make. A record of its making, ending .json, is written next to it."""
    replace: Annotated[bool, FREE] = False
    """Replace a dataset that is there by one of other settings or of other images."""
