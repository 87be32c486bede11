"""Settings of the metrics, checked without torch."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from psld.config.settings import Settings
from psld.data.settings import DatasetSettings


class InceptionSettings(Settings):
    """torch-fidelity's Inception-v3, the extractor of FID: 2048 features of an RGB image."""

    kind: Literal["inception"]
    weights: str | None = None
    """File with torch-fidelity's Inception weights; null takes torch-fidelity's own download."""


class ClassifierSettings(Settings):
    """A small convolutional classifier, trained on the dataset's training split."""

    kind: Literal["classifier"]
    width: int = Field(16, gt=0)
    """Channels at full resolution; doubled at each halving, up to four times this."""
    features: int = Field(32, gt=1)
    """Number of features. From n samples the distance is too large by an amount ∝ features²/n."""
    steps: int = Field(300, gt=0)
    """Training steps."""
    batch_size: int = Field(128, gt=1)
    """Images per training step."""
    learning_rate: float = Field(2e-3, gt=0)
    """Peak of the one-cycle schedule of AdamW."""
    shift: int = Field(1, ge=0)
    """Augmentation: images are shifted by up to this many pixels each way."""
    seed: int = Field(0, ge=0)
    """Of the initial weights, the batches and the shifts."""


ExtractorSettings = Annotated[InceptionSettings | ClassifierSettings, Field(discriminator="kind")]


class MetricSettings(Settings):
    """A Fréchet distance between samples and a reference, in the features of an extractor."""

    name: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    """`fid` for Inception features, `fd-classifier` for a classifier's; variants take a suffix."""
    extractor: ExtractorSettings
    """What turns images into features."""
    reference_split: Literal["train", "test", "all"] = "train"
    """The images that samples are compared with."""
    truncated_reference: bool = False
    """Whether they are truncated as samples are: of 256 levels 95 become one lower."""
    batch_size: int = Field(64, gt=0)
    """Images per call of the extractor."""

    @model_validator(mode="after")
    def _name_is_honest(self) -> "MetricSettings":
        """The word FID is kept for Inception features."""
        kind = self.extractor.kind
        honest = {"inception": "fid", "classifier": "fd-classifier"}[kind]
        if self.name != honest and not self.name.startswith(f"{honest}-"):
            raise ValueError(
                f"a metric whose extractor.kind is {kind} is named {honest} or {honest}-SUFFIX, "
                f"not {self.name}"
            )
        return self


class _CommandSettings(Settings):
    """What both commands share."""

    dataset: DatasetSettings
    metric: MetricSettings
    data: str
    """The dataset's HDF5 file."""
    device: str
    """`auto`, or a torch device such as `cpu` or `cuda`."""


class TrainExtractorSettings(_CommandSettings):
    """Settings of `psld train_extractor`."""

    output: str
    """Folder of the weights and their manifest."""

    @field_validator("metric")
    @classmethod
    def _is_trainable(cls, metric: MetricSettings) -> MetricSettings:
        if metric.extractor.kind != "classifier":
            raise ValueError(
                f"the extractor of {metric.name} is not trained here; use metric=fd-classifier"
            )
        return metric


class ReferenceSettings(_CommandSettings):
    """Settings of `psld reference`."""

    extractor: str | None
    """Folder that train_extractor made; null for Inception, which needs none."""
    output: str
    """Folder of the statistics and their manifest."""
