"""Settings of a dataset and of its preparation, checked without torch or any image library."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from psld.config.settings import Settings

FilterName = Literal["lanczos", "bicubic", "bilinear", "box"]


class DigitsSource(Settings):
    """The 1,797 handwritten digits (8×8, 10 classes) that scikit-learn ships."""

    kind: Literal["digits"]


class FashionMNISTSource(Settings):
    """Fashion-MNIST: 60,000 + 10,000 pictures of clothes (28×28, 10 classes), IDX files."""

    kind: Literal["fashion-mnist"]
    root: str | None = None
    """Folder of the four IDX files, gzipped or not. Null: the one of Debian's package
    dataset-fashion-mnist where that is installed, else downloads/fashion-mnist."""
    download: bool = True
    """Whether torchvision may download what is missing."""
    pad: int | None = Field(32, ge=28)
    """Pixels of the square that the image is centred in, on zeros, before any resizing."""


class MNISTSource(Settings):
    """MNIST: 60,000 + 10,000 handwritten digits (28×28, 10 classes), IDX files."""

    kind: Literal["mnist"]
    root: str = "downloads/mnist"
    """Folder of the four IDX files, gzipped or not."""
    download: bool = True
    """Whether torchvision may download what is missing."""
    pad: int | None = Field(None, ge=28)
    """Pixels of the square that the image is centred in, on zeros, before any resizing."""


class CIFAR10Source(Settings):
    """CIFAR-10: 50,000 + 10,000 photographs (32×32, 10 classes); Python or binary version."""

    kind: Literal["cifar10"]
    root: str = "downloads/cifar10"
    """Folder of the archive, or of the folder that it unpacks to."""
    download: bool = True
    """Whether torchvision may download the archive if it is missing."""


class _PictureSource(Settings):
    """A source of pictures in files of their own, any of which may be broken."""

    broken: Literal["stop", "skip"] = "stop"
    """What is done about a picture that cannot be decoded: stop, or leave it out and name it."""


class CelebASource(_PictureSource):
    """CelebA, aligned: 202,599 faces (178×218) as JPEG."""

    kind: Literal["celeba"]
    root: str = "downloads/celeba"
    """Folder of img_align_celeba.zip, or of the folder img_align_celeba that it unpacks to."""
    download: bool = False
    """Whether torchvision may download what is missing (it needs the package gdown)."""
    crop: int | None = Field(None, gt=0, le=178)
    """Side, in pixels, of the square that is cut out of the centre. Null: the whole picture,
    squeezed to a square."""
    partition: bool = False
    """Split by list_eval_partition.txt: 162,770 to train, 19,962 to test, the validation faces left
    out. Otherwise every picture is for training and there is no test split."""


class AFHQv2Source(_PictureSource):
    """AFHQv2: animal faces (512×512) as PNG, in train/ and test/, in three classes."""

    kind: Literal["afhqv2"]
    root: str = "downloads/afhqv2"
    """Folder of afhq_v2.zip, or of the folders train and test that it unpacks to."""


class FolderSource(_PictureSource):
    """Any folder or zip archive of pictures; the first level of subfolders, if any, are classes."""

    kind: Literal["folder"]
    root: str
    """The folder or zip archive."""
    test_root: str | None = None
    """Another folder or zip archive for the test split, with the same classes."""
    test_fraction: float = Field(0.0, ge=0, lt=1)
    """Or else the part of `root` that is held out, chosen by the names of the files."""

    @model_validator(mode="after")
    def _one_test_split(self) -> "FolderSource":
        if self.test_root is not None and self.test_fraction > 0:
            raise ValueError("give test_root or test_fraction, not both")
        return self


SourceSettings = Annotated[
    DigitsSource
    | FashionMNISTSource
    | MNISTSource
    | CIFAR10Source
    | CelebASource
    | AFHQv2Source
    | FolderSource,
    Field(discriminator="kind"),
]


class DatasetSettings(Settings):
    """A dataset as training and evaluation see it, and the source that it is prepared from."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the dataset and of its files: letters, digits, dots, dashes and underscores."""
    channels: Literal[1, 3]
    """Grey, or red, green and blue."""
    image_size: int = Field(gt=0)
    """Width and height in pixels."""
    num_classes: int = Field(ge=0)
    """Number of classes; 0 ignores the labels of the source."""
    flip: bool
    """Whether training mirrors half of the images, left to right."""
    filter: FilterName | None
    """Filter of the antialiased resizing to `image_size`. Null: no other size is accepted."""
    source: SourceSettings
    """Where the images come from."""

    def preparation(self) -> dict[str, Any]:
        """What the prepared file depends on, ready for JSON: not the name, flips or downloads, nor
        where a published dataset lies, whose content its name tells."""
        content = self.model_dump(mode="json", exclude={"name", "flip"})
        content["source"].pop("download", None)
        if self.source.kind != "folder":
            content["source"].pop("root", None)
        return content


class PrepareSettings(Settings):
    """Settings of `psld prepare`."""

    dataset: DatasetSettings
    output: str = Field(pattern=r"\.h5$")
    """The HDF5 file to make; a record of how it was made goes beside it, with the ending .json."""
