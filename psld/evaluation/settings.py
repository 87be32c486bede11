"""Settings of evaluations and of the commands that measure, checked without torch."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from psld.config.settings import FREE, Settings
from psld.data.settings import DatasetSettings
from psld.diffusion.settings import ProcessSettings
from psld.metrics.settings import MetricSettings
from psld.sampling.settings import CellSettings
from psld.utils.files import digest_of
from psld.utils.numbers import Tolerance


class Measurement(Settings):
    """A metric of the first `samples` images of a cell."""

    metric: MetricSettings
    samples: int = Field(ge=3)
    """Fewer than 3 have no interval."""

    @property
    def group(self) -> tuple[str, int]:
        """The features that it is computed from: those of the first images, by an extractor."""
        return self.metric.features, self.samples

    def digest(self, images: str) -> str:
        """Return the digest of what decides the result, from that of the images."""
        return digest_of([images, self.metric.identity(), self.samples])


class FeatureFolders(Settings):
    """The folders of the features that metrics share."""

    reference: str
    """Written by psld reference."""
    extractor: str | None
    """Written by psld train_extractor; null for a published extractor."""


class EvaluateSettings(CellSettings):
    measurements: tuple[Measurement, ...] = Field(min_length=1)
    features: dict[str, FeatureFolders]
    """The folders of each `metric.features`."""
    shards: Annotated[str, FREE]
    """Folder of the cell's shards."""
    output: Annotated[str, FREE]
    """Path of the results, JSON."""
    keep: Annotated[int, FREE] = Field(512, ge=1)
    """Keep the features of extractors that have at most this number of them; Inception has 2048.
    Of other extractors, keep mean and covariance."""


class EvaluateImagesSettings(Settings):
    """Settings of `psld evaluate images=…`, which needs no model."""

    images: str
    """A folder or zip archive of pictures, an .npz with uint8 N×H×W×C, a folder of shards, or a
    prepared dataset, .h5."""
    metric: tuple[str, ...] = Field(("fid",), min_length=1)
    """Configs in configs/metric: fid, or several, [fid,kid]; or MEASURE@EXTRACTOR, each a kind or
    such a config: recall@pixels, mymeasures:Mine@fd-dinov2."""
    dataset: str | None = None
    """The prepared dataset to compare with, data/NAME.h5; psld reference keeps its features."""
    reference: str | None = None
    """In place of a dataset: images like those above, an .npz of statistics (mu, sigma), or a
    folder that psld reference wrote."""
    extractor: str | None = None
    """Folder that psld train_extractor wrote; null: that of the dataset, or a published one."""
    image_size: int | None = Field(None, ge=1)
    """Pixels: the central square of each picture is resized to this, as psld prepare does. Null: as
    they are, all of one size."""
    samples: int | None = Field(None, ge=3)
    """The number of images to measure, from the first; null: all."""
    output: str | None = Field(None, pattern=r"\.json$")
    """Path of the results, JSON, in the form of a cell's; null: none."""
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
            raise ValueError("give dataset=NAME or reference=PATH, one of them")
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
    """Folder from train_extractor; null for a published extractor, which needs none."""
    output: Annotated[str, FREE]
    """Output folder for the features and their manifest."""


class LikelihoodSettings(Settings):
    """Everything that decides the bits per dimension of a model."""

    split: Literal["train", "test"]
    """The images whose likelihood is measured."""
    process: ProcessSettings | None = None
    """The process to take a denoiser as, in place of the one in its training."""
    images: int | None = Field(ge=2)
    """Number of images, drawn from the split once and for all; null: all."""
    probes: int = Field(ge=1)
    """Random vectors of Hutchinson's estimate of the trace; each costs one gradient. With momentum
    take an even number, because pairs cancel most of the error."""
    draws: int = Field(ge=1)
    """K: draws of the momentum for each image; the bound on the bits falls with K. No effect
    without momentum, where the likelihood is no bound."""
    start_time: float = Field(gt=0, lt=1)
    """The time at which the flow starts from the images; not below the model's time_eps."""
    tolerance: Tolerance
    """Relative and absolute error tolerance of the adaptive steps."""
    seed: int = Field(ge=0)
    """Seed of the dequantization, the momenta and the probes."""


class LikelihoodCommandSettings(LikelihoodSettings):
    """Settings of `psld likelihood`."""

    model: str
    """A trained model: its folder, GRID/MODEL for models/GRID/MODEL, or hf://USER/NAME@COMMIT."""
    trust: Annotated[bool, FREE] = False
    """As of `psld sample`: run the copy of the code next to the weights. Read it before."""
    data: Annotated[str | None, FREE]
    """The prepared dataset, HDF5; null: the file in data/ with the name of the model's dataset."""
    output: Annotated[str, FREE] = Field(pattern=r"\.json$")
    """Path of the result."""
    batch_size: Annotated[int, FREE] = Field(ge=1)
    """Most images, times draws, per network evaluation; changes speed and memory only."""
    device: Annotated[str, FREE]
    """`auto`, or a torch device such as `cpu` or `cuda`."""
