"""Settings of the commands that evaluate images and models. Imports no torch."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from psld.config.settings import FREE, Settings
from psld.data.settings import Autoencoder, DatasetSettings
from psld.diffusion.settings import ProcessSettings
from psld.metrics.settings import MetricSettings
from psld.sampling.settings import CellSettings
from psld.utils.errors import UserError
from psld.utils.files import digest_of
from psld.utils.numbers import Tolerance


class Measurement(Settings):
    """A metric of the first `samples` images of a cell."""

    metric: MetricSettings
    samples: int = Field(ge=3)
    """Number of images, from the first image of the cell on. An interval needs at least 3 images.
    """

    @property
    def group(self) -> tuple[str, int]:
        """The key of the features: the name of the extractor's folder, and the number of images."""
        return self.metric.features, self.samples

    def digest(self, images: str, decode: Autoencoder | None = None) -> str:
        """Return the digest of everything that determines the result.

        `images`: the digest of the images. `decode`: the decoder that makes pictures from them.
        """
        decides = [images, self.metric.identity(), self.samples]
        return digest_of(decides + ([decode.identity()] if decode else []))


def decoder_for(dataset: DatasetSettings, metric: MetricSettings) -> Autoencoder | None:
    """Return the decoder that makes pictures for a metric; None if the metric needs none.

    Raises UserError for tensors without a decoder if the metric measures pictures.
    """
    if dataset.dtype == "uint8" or metric.extractor.sees == "values":
        return None
    if dataset.decode is None:
        raise UserError(
            f"{metric.name} measures pictures, but dataset {dataset.name} has tensors; use "
            "metric=fd-values, or set dataset.decode"
        )
    return dataset.decode


class FeatureFolders(Settings):
    """The folders of an extractor and its reference, which several metrics share."""

    reference: str
    """Folder written by psld reference."""
    extractor: str | None
    """Folder written by psld train_extractor; null for a published extractor."""


class EvaluateSettings(CellSettings):
    measurements: tuple[Measurement, ...] = Field(min_length=1)
    decode: Autoencoder | None = Field(None, exclude_if=lambda part: part is None)
    """Makes pictures from samples that are tensors, for metrics of pictures."""
    features: dict[str, FeatureFolders]
    """The folders of extractor and reference, by `metric.features`."""
    shards: Annotated[str, FREE]
    """Folder of the cell's shards."""
    output: Annotated[str, FREE]
    """Path of the results, JSON."""
    keep: Annotated[int, FREE] = Field(512, ge=1)
    """Largest number of features per image for which all features are stored. For extractors with
    more features, only the mean and the covariance are stored. Inception has 2048 features."""


class EvaluateImagesSettings(Settings):
    """Settings of `psld evaluate images=…`, which needs no model."""

    images: str
    """A folder or archive of pictures, an .npz with uint8 N×H×W×C or float tensors N×C×H×W, a
    folder of shards, or a prepared dataset, .h5."""
    metric: tuple[str, ...] = Field(("fid",), min_length=1)
    """One or several configs in configs/metric: fid, or [fid,kid]. A metric may also be
    MEASURE@EXTRACTOR, where MEASURE and EXTRACTOR are kinds or configs: recall@pixels,
    mymeasures:Mine@fd-dinov2."""
    dataset: str | None = None
    """The prepared dataset with which the images are compared, data/NAME.h5. The command psld
    reference saves the features of the dataset."""
    reference: str | None = None
    """The reference if no dataset is given: a path as for `images`, an .npz with the reference
    statistics mu and sigma, or a folder that psld reference wrote."""
    extractor: str | None = None
    """Folder that psld train_extractor wrote. Null: the extractor of the dataset, or the published
    extractor of the metric."""
    image_size: int | None = Field(None, ge=1)
    """Side, in pixels, to which the central square of each picture is resized, as in psld prepare.
    Null: do not resize; all pictures must have the same size."""
    samples: int | None = Field(None, ge=3)
    """Number of images to evaluate, beginning with the first image; null: all images."""
    output: str | None = Field(None, pattern=r"\.json$")
    """Output file for the results, JSON, in the format of a cell's results; null: no file."""
    device: str = "auto"
    """`auto`, or a torch device such as `cpu` or `cuda`."""

    @field_validator("metric", mode="before")
    @classmethod
    def _split_names(cls, metric: Any) -> Any:
        if isinstance(metric, str):
            return [name.strip() for name in metric.strip("[] ").split(",")]
        return metric

    @model_validator(mode="after")
    def _check_reference(self) -> Self:
        if (self.dataset is None) == (self.reference is None):
            raise ValueError("give either dataset=NAME or reference=PATH")
        return self


class _CommandSettings(Settings):
    dataset: DatasetSettings
    metric: MetricSettings
    data: Annotated[str, FREE]
    """The dataset's HDF5 file."""
    device: Annotated[str, FREE]
    """`auto`, or a torch device such as `cpu` or `cuda`."""


class TrainExtractorSettings(_CommandSettings):
    """Settings of `psld train_extractor`."""

    output: Annotated[str, FREE]
    """Output folder for the weights and their manifest."""


class ReferenceSettings(_CommandSettings):
    """Settings of `psld reference`."""

    extractor: Annotated[str | None, FREE]
    """Folder that psld train_extractor wrote; null for a published extractor."""
    output: Annotated[str, FREE]
    """Output folder for the features and their manifest."""


class LikelihoodSettings(Settings):
    """Everything that determines the bits per dimension of a model."""

    split: Literal["train", "test"]
    """The images whose likelihood is measured."""
    process: ProcessSettings | None = None
    """The process with which a denoiser is used. Null: the process of its training."""
    images: int | None = Field(ge=2)
    """Number of images in the measured subset, which is random but fixed; null: all images of the
    split."""
    probes: int = Field(ge=1)
    """Number of random vectors in Hutchinson's trace estimate. Each vector costs one gradient. With
    momentum, choose an even number, because most of the error cancels in pairs of vectors."""
    draws: int = Field(ge=1)
    """K: number of momentum draws per image. The upper bound on the bits decreases with K. Without
    momentum, K has no effect."""
    start_time: float = Field(gt=0, lt=1)
    """The time at which the flow starts from the images; at least training.time_eps of the model.
    """
    tolerance: Tolerance
    """Relative and absolute error tolerance of the adaptive steps."""
    seed: int = Field(ge=0)
    """Seed of the dequantization, the momenta and the random vectors of the trace estimate."""


class LikelihoodCommandSettings(LikelihoodSettings):
    """Settings of `psld likelihood`."""

    model: str
    """A trained model: its folder, GRID/MODEL for models/GRID/MODEL, or hf://USER/NAME@COMMIT."""
    trust: Annotated[bool, FREE] = False
    """As in `psld sample`: run the copy of a custom part's code in parts/, next to the weights.
    Read the copy first."""
    data: Annotated[str | None, FREE]
    """The prepared dataset, HDF5; null: data/NAME.h5, where NAME is the model's dataset."""
    output: Annotated[str, FREE] = Field(pattern=r"\.json$")
    """Output file for the result, JSON."""
    batch_size: Annotated[int, FREE] = Field(ge=1)
    """Largest number of images × draws per network evaluation. It affects only speed and memory."""
    device: Annotated[str, FREE]
    """`auto`, or a torch device such as `cpu` or `cuda`."""
