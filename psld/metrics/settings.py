"""Metrics and their parts, extractors and measures, checked without torch."""

import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, cast

from pydantic import Field, ValidationInfo, field_validator, model_validator

from psld.config.parts import Part
from psld.config.settings import FREE, Settings, parse
from psld.metrics.estimate import Estimate, Finding
from psld.utils.errors import UserError
from psld.utils.files import digest_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from psld.metrics.blocks import Blocks
    from psld.metrics.classifier import ImageShape
    from psld.metrics.features import Device, Features, FeatureStatistics, Reference


Better = Literal["larger", "smaller", "floor"]


class _NamedPart(Part):
    """A part with a word in the names of metrics."""

    kind: str
    word: ClassVar[str] = ""
    """Its word in honest names: a-z, 0-9 and dashes. Empty: its kind, in these."""

    @property
    def in_names(self) -> str:
        return self.word or re.sub(r"[^a-z0-9]+", "-", self.kind.lower()).strip("-")


class Extractor(_NamedPart):
    """A map from images to features: a published network, a trained one, or a function."""

    noun = "extractor"
    recorded_attributes = ("classifies", "trains", "downloads")

    trains: ClassVar[bool] = False
    """It is trained on the training split of each dataset, by `train`."""
    classifies: ClassVar[bool] = False
    """It needs the dataset's labels, and its logits are of their classes."""
    downloads: ClassVar[bool] = True
    """Build it before a grid's trainings: its weights may have to be downloaded, or be missing."""

    def build(self, device: "torch.device") -> "nn.Module | Callable[[Tensor], Any]":
        """Return a module, or a function that has or whose part has a `digest()`.

        It is called with uint8 images N×C×H×W on the device, any C and H = W of a dataset, in eval
        mode and without gradients. It returns float features N×d; or a pair of them and of logits
        N×classes. A module's weights and buffers are in the digest of the features, with the
        settings of the part. Of an extractor that `trains` it is the module before its training;
        its weights are then loaded.
        """
        raise NotImplementedError

    def build_trained(self, shape: "ImageShape", device: "torch.device") -> "nn.Module":
        """Return the module of an extractor that `trains`, whose weights are then loaded.

        By default that of `build`; override it if the module depends on the images' shape.
        """
        return cast(Any, self.build(device))

    def train(self, images: "Tensor", labels: "Tensor", device: "torch.device") -> "nn.Module":
        """Return a trained module, which is called like one of `build`.

        It gets the training split on the device: uint8 N×C×H×W, and int64 labels N, 0 without
        classes. The generators of torch are seeded before.
        """
        raise NotImplementedError

    def digest(self) -> str:
        """Return a text that differs if the features of a function differ. Modules need none."""
        wrong = "build returns a function, whose features need a digest(); define it"
        raise UserError(f"metric.extractor: {self.kind}: {wrong}")


class InceptionSettings(Extractor):
    """torch-fidelity's Inception-v3, the extractor of FID, with 2048 features of an RGB image."""

    kind: Literal["inception"] = "inception"
    weights: Annotated[str | None, FREE] = None
    """File with torch-fidelity's Inception weights; null downloads them."""

    def build(self, device):
        from psld.metrics.published import InceptionNetwork

        return InceptionNetwork(self.weights, device)


class ClassifierSettings(Extractor):
    """A small convolutional classifier, trained on the dataset's training split."""

    trains = True
    classifies = True
    downloads = False

    kind: Literal["classifier"] = "classifier"
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

    def build_trained(self, shape, device):
        from psld.metrics.classifier import FeatureClassifier

        return FeatureClassifier(shape, self.width, self.features)

    def train(self, images, labels, device):
        from psld.metrics.classifier import train_classifier

        return train_classifier(
            images,
            labels,
            device,
            width=self.width,
            features=self.features,
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            shift=self.shift,
            seed=self.seed,
        )


class DINOv2Settings(Extractor):
    """DINOv2 (Oquab et al. 2023), trained without labels: 384, 768 or 1024 features of an image."""

    kind: Literal["dinov2"] = "dinov2"
    size: Literal["small", "base", "large"] = "large"
    """ViT-S/14, ViT-B/14 or ViT-L/14; FD-DINOv2 in papers is ViT-L/14."""
    weights: Annotated[str | None, FREE] = None
    """File with Meta's weights, such as dinov2_vitl14_pretrain.pth; null downloads them."""

    @property
    def in_names(self):
        return "dinov2" if self.size == "large" else f"dinov2-{self.size}"

    def build(self, device):
        from psld.metrics.published import DINOv2Network

        return DINOv2Network(self.size, self.weights, device)


class PixelSettings(Extractor):
    """No network: the pixels from 0 to 1, of larger images averaged to 16×16."""

    downloads = False

    kind: Literal["pixels"] = "pixels"

    def build(self, device):
        from psld.metrics.published import Pixels

        return Pixels(device)


class Measure(_NamedPart):
    """A number of samples, mostly in comparison with the images of a reference.

    A measure has a `value`, whose interval comes from a jackknife; or an `estimate`, if there is a
    faster way to the interval, or if it needs more than the features of both sides.
    """

    noun = "measure"
    recorded_attributes = ("finds_nearest",)

    kind: str = "frechet"

    better: ClassVar[Better | None] = None
    """The better values: larger ones, smaller ones, or those nearer to the `floor`, that of real
    images. None: neither, and tables rank nothing."""
    extractors: ClassVar[tuple[str, ...]] = ()
    """The kinds of extractors that it needs; none if any will do."""
    references: ClassVar[tuple[str, ...]] = ("train", "test")
    """The splits that may be its reference."""
    needs_test: ClassVar[bool] = False
    """It needs the test images of the reference, besides those of the training."""
    finds_nearest: ClassVar[bool] = False
    """Its results name the samples that are nearest to training images; a figure shows them."""
    of_moments: ClassVar[bool] = False
    """Mean and covariance of features give its value, also those that were kept: `value` gets two
    `FeatureStatistics`, and there is an `estimate`. It is computed on the CPU, when the GPU has
    been given back."""
    names: ClassVar[dict[str, str]] = {}
    """Names that are reserved for the features of an extractor, by its word."""

    def name_with(self, extractor: Extractor) -> str:
        """Return the honest name of a metric of this measure and an extractor."""
        word = extractor.in_names
        return self.names.get(word, f"{self.in_names}-{word}")

    @property
    def exchanged(self) -> "Measure | None":
        """The measure that is this one if samples and reference change places.

        Its blocks then give the interval for other images of the reference. None if there is no
        such measure.
        """
        return None

    def value(self, samples: Any, reference: Any) -> float:
        """Return the number of samples, n×d float32, compared with a reference, m×d.

        Both are copies, which it may change.
        """
        raise NotImplementedError

    def estimate(
        self, samples: "Features", reference: "Reference", blocks: "Blocks", device: "Device"
    ) -> Estimate | Finding:
        """Return the value of samples with its interval; in a `Finding`, also what else is found.

        By default from a jackknife: B + 1 values, on the device. `samples.on(device)` and
        `reference.images.on(device)` are the features, n×d and m×d, which it must not change; the
        samples may have `logits`, and `reference.split` returns the images of a split.
        `blocks.block` has the block of each sample, n numbers below B = `blocks.count`, on the CPU.
        `psld.metrics.blocks.jackknife` makes an estimate of the values with all samples and without
        each block, B + 1; `share_estimate` of n booleans, for a share of the samples.
        """
        from psld.metrics.blocks import jackknife

        x, images = samples.on(device), reference.images.on(device)
        block = blocks.block.to(x.device)
        left_out = range(-1, blocks.count)  # None, then each block.
        return jackknife((self.value(x[block != j], images.clone()) for j in left_out), blocks)


class FrechetSettings(Measure):
    """The Fréchet distance of Gaussians with the features' means and covariances."""

    word = "fd"
    better = "smaller"
    of_moments = True
    names = {"inception": "fid"}

    kind: Literal["frechet"] = "frechet"

    @property
    def exchanged(self):
        return self

    def value(self, samples, reference):
        from psld.metrics.distances import frechet_distance

        return frechet_distance(samples, reference)

    def estimate(self, samples, reference, blocks, device):
        from psld.metrics.distances import frechet_estimate

        return frechet_estimate(samples.on(device), reference.images.total, blocks)


class KernelSettings(Measure):
    """The kernel distance: unbiased squared MMD with a cubic kernel. KID in Inception features."""

    word = "kd"
    better = "smaller"
    names = {"inception": "kid"}

    kind: Literal["kernel"] = "kernel"
    subsets: int = Field(100, gt=0)
    """Pairs of random subsets whose distances are averaged."""
    subset_size: int = Field(1000, gt=1)
    """Images in a subset."""

    @property
    def exchanged(self):
        return self

    def estimate(self, samples, reference, blocks, device):
        from psld.metrics.distances import kernel_distance

        samples, images = samples.on(device), reference.images.on(device)
        return kernel_distance(samples, images, self.subsets, self.subset_size, blocks)


class InceptionScoreSettings(Measure):
    """The Inception Score: high if each sample's class is certain and there are many classes.

    It needs no reference.
    """

    better = "larger"
    extractors = ("inception",)
    references = ("train",)
    names = {"inception": "inception-score"}

    kind: Literal["inception-score"] = "inception-score"
    splits: int = Field(10, gt=0)
    """Parts of the samples whose scores are averaged."""

    def estimate(self, samples, reference, blocks, device):
        from psld.metrics.distances import inception_score
        from psld.metrics.features import finite

        splits = min(self.splits, max(1, len(samples) // 2))  # A rehearsal has few samples.
        return inception_score(finite(cast("Tensor", samples.logits)), splits, blocks)


class NeighborSettings(Measure):
    """A share of images that are among other images, by their nearest neighbors."""

    better = "larger"

    neighbors: int = Field(3, gt=0)
    """k: the ball around an image reaches to its k-th nearest neighbor."""


class PrecisionSettings(NeighborSettings):
    """Precision: the share of samples that are among the reference."""

    kind: Literal["precision"] = "precision"

    @property
    def exchanged(self):
        return RecallSettings(neighbors=self.neighbors)

    def estimate(self, samples, reference, blocks, device):
        from psld.metrics.distances import precision

        samples, images = samples.on(device), reference.images.on(device)
        return precision(samples, images, self.neighbors, blocks, reference.once)


class RecallSettings(NeighborSettings):
    """Recall: the share of the reference that is among the samples."""

    kind: Literal["recall"] = "recall"

    @property
    def exchanged(self):
        return PrecisionSettings(neighbors=self.neighbors)

    def estimate(self, samples, reference, blocks, device):
        from psld.metrics.distances import recall

        samples, images = samples.on(device), reference.images.on(device)
        return recall(samples, images, self.neighbors, blocks)


class MemorizationSettings(Measure):
    """The share of samples nearer to a training image than most test images are.

    It is small for noise and large for copies, so no values are better.
    """

    references = ("train",)
    needs_test = True
    finds_nearest = True

    kind: Literal["memorization"] = "memorization"
    quantile: float = Field(0.05, gt=0, lt=1)
    """The share of test images that are nearer to a training image than the threshold."""

    def estimate(self, samples, reference, blocks, device):
        from psld.metrics.distances import memorization

        images = samples, reference.train, reference.split("test")
        samples, train, test = (each.on(device) for each in images)
        return memorization(samples, train, test, self.quantile, blocks, reference.once)


class MetricSettings(Settings):
    """A measure of samples, mostly against a reference, in the features of an extractor."""

    name: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    """`honest_name`, optionally with a suffix."""
    features: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    """The metric whose extractor and reference this one shares; its own name by default."""
    extractor: Extractor
    """The network that turns images into features."""
    measure: Measure = FrechetSettings()
    """The number that is computed from the features."""
    reference_split: Literal["train", "test"] = "train"
    """The images that samples are compared with."""
    truncated_reference: bool = False
    """Truncate real images as samples are truncated: 95 of 256 levels become one lower."""
    batch_size: Annotated[int, FREE] = Field(64, gt=0)
    """Images per call of the extractor; changes speed and memory only."""

    better: Annotated[Better | None, FREE] = Field(None, validate_default=True)
    """The better values: those of the measure, also for a reader without its code."""

    @property
    def honest_name(self) -> str:
        """The metric's unambiguous name.

        `fid`, `kid` and `inception-score` are reserved for Inception features. Other names combine
        the measure (fd: Fréchet distance, kd: kernel distance) with the extractor, as in
        `fd-dinov2`, `kd-classifier` and `precision-inception`.
        """
        return self.measure.name_with(self.extractor)

    @property
    def needs_test(self) -> bool:
        return self.measure.needs_test or self.reference_split == "test"

    @property
    def suffix(self) -> str:
        """The rest of its name, with a dash; empty without one."""
        return self.name.removeprefix(self.honest_name)

    def with_extractor(self, extractor: Extractor) -> Self:
        """Return the metric in other features. Raises UserError if its measure needs its own."""
        name = self.measure.name_with(extractor)
        content = dict(self) | {"name": name, "features": name, "extractor": extractor}
        return parse(type(self), content, name)

    def evaluate(
        self, samples: "Features", reference: "Reference", device: "Device" = "cpu"
    ) -> Finding:
        """Compute the metric of samples, with its interval.

        Raises RunError if features are NaN or infinite, and what the measure raises for too few
        samples.
        """
        return self._found(samples, reference, samples.blocks(), device)

    def _found(
        self, samples: "Features", reference: "Reference", blocks: "Blocks", device: "Device"
    ) -> Finding:
        reference = reference._replace(compared=self.reference_split)
        if self.measure.code:  # Its cache may use the names of a shipped measure.
            reference = reference._replace(cache=None)
        found = self.measure.estimate(samples, reference, blocks, device)
        return found if isinstance(found, Finding) else Finding(found)

    def exchanged_estimate(
        self, samples: "Features", reference: "Reference", device: "Device" = "cpu"
    ) -> Estimate | None:
        """Compute the metric with the interval for other images of the reference.

        It is `evaluate` with the two sets exchanged, which changes no Fréchet distance, and makes
        precision recall. None for statistics, and for measures that cannot be exchanged.
        """
        from psld.metrics.features import FeatureStatistics, Reference

        other, images = self.measure.exchanged, reference.split(self.reference_split)
        if other is None or isinstance(images, FeatureStatistics):
            return None
        metric = self.model_copy(update={"measure": other, "reference_split": "train"})
        return metric.evaluate(images.numbered(), Reference(samples, None, None), device).estimate

    def value(
        self,
        images: "Features | FeatureStatistics",
        reference: "Reference",
        device: "Device" = "cpu",
    ) -> float:
        """Compute the metric without its interval; of measures `of_moments` of statistics, too."""
        if self.measure.of_moments:
            return self.measure.value(images.total, reference.split(self.reference_split).total)
        samples = cast("Features", images)  # The fewest blocks are enough.
        return self._found(samples, reference, samples.blocks(2), device).estimate.value

    def scale(self, reference: "Reference", device: "Device" = "cpu") -> dict[str, float | None]:
        """Return the metric of real images that are not in the reference (`floor`), and of `noise`.

        Each is None without such images. The floor is of all images of the split: a Fréchet
        distance or recall compares only with cells of as many.
        """
        held_out = reference._replace(compared=self.reference_split).held_out
        found: dict[str, float | None] = {"floor": None, "noise": None}
        metric = digest_of(self.identity())
        for name, images in (("floor", held_out), ("noise", reference.noise)):
            if images:
                value = partial(self.value, images, reference, device)
                found[name] = reference.number(f"{name} {metric}", value)
        return found

    @model_validator(mode="before")
    @classmethod
    def _default_features(cls, content: Any) -> Any:
        if isinstance(content, dict):
            return {"features": content.get("name")} | content
        return content

    @field_validator("better", mode="before")
    @classmethod
    def _better_of_measure(cls, better: Any, info: ValidationInfo) -> Any:
        measure = info.data.get("measure")
        is_data = isinstance(measure, Part) and measure.is_data
        return better if is_data else getattr(measure, "better", None)

    @model_validator(mode="after")
    def _check_name_and_measure(self) -> Self:
        measure, extractor, honest = self.measure, self.extractor, self.honest_name
        if measure.is_data or extractor.is_data:
            return self
        kinds = measure.extractors
        if kinds and extractor.kind not in kinds:
            needs = f"needs extractor.kind {' or '.join(kinds)}"
            raise ValueError(f"measure.kind {measure.kind} {needs}")
        if self.name != honest and not self.name.startswith(f"{honest}-"):
            raise ValueError(
                f"a metric whose extractor.kind is {extractor.kind} and measure.kind is "
                f"{measure.kind} is named {honest} or {honest}-SUFFIX, not {self.name}"
            )
        if self.reference_split not in (splits := measure.references):
            raise ValueError(f"measure.kind {measure.kind}: set reference_split to {splits[0]}")
        return self
