"""Settings of metrics, extractors and measures, validated without importing torch."""

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
    from psld.metrics.features import (
        BlockMoments,
        Device,
        Features,
        FeatureStatistics,
        Reference,
    )


Better = Literal["larger", "smaller", "floor"]


class _NamedPart(Part):
    """A part whose `word` appears in the names of metrics."""

    kind: str
    word: ClassVar[str] = ""
    """The word for this part in names of metrics: a-z, 0-9 and dashes. If empty, `kind` is used."""

    @property
    def in_names(self) -> str:
        return self.word or re.sub(r"[^a-z0-9]+", "-", self.kind.lower()).strip("-")


class Extractor(_NamedPart):
    """The base class of extractors, which map images to features."""

    noun = "extractor"
    recorded_attributes = ("classifies", "trains", "downloads", "sees")

    trains: ClassVar[bool] = False
    """True if `train` trains the extractor on the training split of each dataset."""
    classifies: ClassVar[bool] = False
    """True if the extractor needs the labels of the dataset and returns logits of its classes."""
    sees: ClassVar[Literal["pictures", "values"]] = "pictures"
    """What the extractor sees of tensors: `values`, the tensors in the units of the data, or
    `pictures`, which the decoder of the dataset makes from them. Pictures are always bytes."""
    downloads: ClassVar[bool] = True
    """True if `build` may download weights; a grid then calls `build` before its trainings."""

    def build(self, device: "torch.device") -> "nn.Module | Callable[[Tensor], Any]":
        """Return the module or function that maps images to features.

        It is called with uint8 images N×C×H×W on the device, with float32 tensors if it sees
        `values` of tensors, in eval mode and without gradients. It returns float features N×d, or a
        pair of features and logits N×classes.

        The digest of the features includes the settings of the extractor and the weights and
        buffers of a module. A function needs a method `digest`, or the extractor must define
        `digest`. For an extractor that `trains`, return the untrained module, into which the
        trained weights are then loaded.
        """
        raise NotImplementedError

    def build_trained(self, shape: "ImageShape", device: "torch.device") -> "nn.Module":
        """Return the untrained module of an extractor that `trains`, for loading its weights.

        The default is `build`. Override this method if the module depends on the shape of images.
        """
        return cast(Any, self.build(device))

    def train(self, images: "Tensor", labels: "Tensor", device: "torch.device") -> "nn.Module":
        """Return a trained module, which is called like the result of `build`.

        Args:
            images: the training split, N×C×H×W, on the device.
            labels: int64 N, on the device; all 0 without classes.
            device: the device.

        torch's generators are seeded before the call.
        """
        raise NotImplementedError

    def digest(self) -> str:
        """If `build` returns a function, return a text that changes whenever the function's
        features change. For a module, no digest is needed."""
        wrong = "build returns a function, whose features need a digest; define digest()"
        raise UserError(f"metric.extractor: {self.kind}: {wrong}")


class InceptionSettings(Extractor):
    """Inception-v3 of torch-fidelity, the extractor of FID, with 2048 features."""

    kind: Literal["inception"] = "inception"
    weights: Annotated[str | None, FREE] = None
    """File with the Inception weights of torch-fidelity; null downloads the weights."""

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
    """Channels at full resolution. They double at each downsampling, up to 4 · width."""
    features: int = Field(32, gt=1)
    """Number of features. The bias of a Fréchet distance grows as features²/n with n samples."""
    steps: int = Field(300, gt=0)
    """Training steps."""
    batch_size: int = Field(128, gt=1)
    """Images per training step."""
    learning_rate: float = Field(2e-3, gt=0)
    """Peak learning rate of AdamW in the one-cycle schedule."""
    shift: int = Field(1, ge=0)
    """Augmentation: images are shifted by up to this many pixels in each direction."""
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
    """DINOv2 (Oquab et al. 2023), trained without labels, with 384, 768 or 1024 features."""

    kind: Literal["dinov2"] = "dinov2"
    size: Literal["small", "base", "large"] = "large"
    """ViT-S/14, ViT-B/14 or ViT-L/14. Published values of FD-DINOv2 use ViT-L/14."""
    weights: Annotated[str | None, FREE] = None
    """File with the weights of Meta, such as dinov2_vitl14_pretrain.pth; null downloads them."""

    @property
    def in_names(self):
        return "dinov2" if self.size == "large" else f"dinov2-{self.size}"

    def build(self, device):
        from psld.metrics.published import DINOv2Network

        return DINOv2Network(self.size, self.weights, device)


class PixelSettings(Extractor):
    """Pixels in [0, 1] as features, without a network; larger images are averaged to 16×16."""

    downloads = False

    kind: Literal["pixels"] = "pixels"

    def build(self, device):
        from psld.metrics.published import Pixels

        return Pixels(device)


class ValueSettings(Extractor):
    """Tensors as features, without a network; larger tensors are averaged to 16×16.

    Each channel is standardized with its mean and standard deviation over the training split.
    """

    trains = True
    sees = "values"
    downloads = False

    kind: Literal["values"] = "values"

    def build_trained(self, shape, device):
        from psld.metrics.published import Values

        return Values(shape.channels)

    def train(self, images, labels, device):
        from psld.metrics.published import Values

        return Values.of(images)


class Measure(_NamedPart):
    """The base class of measures, which map samples, and usually reference images, to a number.

    A measure defines `value`; a jackknife then computes the interval. Override `estimate` instead
    to compute the interval faster, or to use more than the features of samples and reference.
    """

    noun = "measure"
    recorded_attributes = ("finds_nearest",)

    kind: str = "frechet"

    better: ClassVar[Better | None] = None
    """The direction in which the measure improves: `larger`, `smaller`, or nearer to the value of
    real images (`floor`). None: tables do not rank the measure."""
    extractors: ClassVar[tuple[str, ...]] = ()
    """The kinds of extractors that the measure supports; empty if it supports all."""
    references: ClassVar[tuple[str, ...]] = ("train", "test")
    """The splits that the measure supports as reference."""
    needs_test: ClassVar[bool] = False
    """True if the measure needs the test images in addition to the training images."""
    finds_nearest: ClassVar[bool] = False
    """True if results contain the samples nearest to training images, which a figure shows."""
    of_moments: ClassVar[bool] = False
    """True if the value depends only on the mean and the covariance of the features.

    `value` then receives two `FeatureStatistics`, and `estimate` must be overridden. The measure is
    computed on the CPU, after the GPU is released.
    """
    names: ClassVar[dict[str, str]] = {}
    """Reserved names of metrics, keyed by the word of the extractor."""

    def name_with(self, extractor: Extractor) -> str:
        """Return the name of a metric with this measure and an extractor."""
        word = extractor.in_names
        return self.names.get(word, f"{self.in_names}-{word}")

    @property
    def exchanged(self) -> "Measure | None":
        """The measure that gives the same value with samples and reference exchanged, or None.

        The jackknife of this measure, over the reference images, gives the interval for other draws
        of reference images.
        """
        return None

    def value(self, samples: Any, reference: Any) -> float:
        """Return the measure of samples, n×d float32, compared with a reference, m×d float32.

        Both tensors are copies, which this method may modify.
        """
        raise NotImplementedError

    def estimate(
        self, samples: "Features", reference: "Reference", blocks: "Blocks", device: "Device"
    ) -> Estimate | Finding:
        """Return the value of the samples with its interval; a `Finding` adds further results.

        The default is a jackknife of `value`: B + 1 values, computed on the device.

        In an override, `samples.on(device)` and `reference.images.on(device)` are the features, n×d
        and m×d, which must not be modified. `samples.logits` may be None. `reference.split` returns
        the images of a split. `blocks.block` contains the block of each sample, n numbers below
        B = `blocks.count`, on the CPU. `psld.metrics.blocks.jackknife` builds an estimate from the
        value with all samples and the values without each block; `share_estimate` builds the
        estimate of a fraction from n booleans.
        """
        from psld.metrics.blocks import jackknife

        x, images = samples.on(device), reference.images.on(device)
        block = blocks.block.to(x.device)
        left_out = range(-1, blocks.count)  # -1 leaves out no block
        return jackknife((self.value(x[block != j], images.clone()) for j in left_out), blocks)


class FrechetSettings(Measure):
    """The Fréchet distance between Gaussians with the means and covariances of the features."""

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

        return frechet_estimate(samples.moments(blocks, device), reference.images.total)


class KernelSettings(Measure):
    """The kernel distance: unbiased squared MMD with a cubic kernel (KID in Inception features)."""

    word = "kd"
    better = "smaller"
    names = {"inception": "kid"}

    kind: Literal["kernel"] = "kernel"
    subsets: int = Field(100, gt=0)
    """Number of pairs of random subsets whose distances are averaged."""
    subset_size: int = Field(1000, gt=1)
    """Number of images in a subset."""

    @property
    def exchanged(self):
        return self

    def estimate(self, samples, reference, blocks, device):
        from psld.metrics.distances import kernel_distance

        samples, images = samples.on(device), reference.images.on(device)
        return kernel_distance(samples, images, self.subsets, self.subset_size, blocks)


class InceptionScoreSettings(Measure):
    """The Inception Score: high if the class of each sample is certain and all classes occur.

    The score uses no reference.
    """

    better = "larger"
    extractors = ("inception",)
    references = ("train",)
    names = {"inception": "inception-score"}

    kind: Literal["inception-score"] = "inception-score"
    splits: int = Field(10, gt=0)
    """Number of splits of the samples whose scores are averaged."""

    def estimate(self, samples, reference, blocks, device):
        from psld.metrics.distances import inception_score
        from psld.metrics.features import finite

        splits = min(self.splits, max(1, len(samples) // 2))  # a rehearsal has few samples
        return inception_score(finite(cast("Tensor", samples.logits)), splits, blocks)


class NeighborSettings(Measure):
    """The base class of precision and recall, which are based on nearest neighbors."""

    better = "larger"

    neighbors: int = Field(3, gt=0)
    """k: the radius around an image is the distance to its k-th nearest neighbor."""


class PrecisionSettings(NeighborSettings):
    """Precision: the fraction of samples that are in the support of the reference."""

    kind: Literal["precision"] = "precision"

    @property
    def exchanged(self):
        return RecallSettings(neighbors=self.neighbors)

    def estimate(self, samples, reference, blocks, device):
        from psld.metrics.distances import precision

        samples, images = samples.on(device), reference.images.on(device)
        return precision(samples, images, self.neighbors, blocks, reference.once)


class RecallSettings(NeighborSettings):
    """Recall: the fraction of reference images that are in the support of the samples."""

    kind: Literal["recall"] = "recall"

    @property
    def exchanged(self):
        return PrecisionSettings(neighbors=self.neighbors)

    def estimate(self, samples, reference, blocks, device):
        from psld.metrics.distances import recall

        samples, images = samples.on(device), reference.images.on(device)
        return recall(samples, images, self.neighbors, blocks)


class MemorizationSettings(Measure):
    """The fraction of samples that are nearer to a training image than most test images are.

    The fraction is small for noise and large for copies, so neither direction is an improvement.
    """

    references = ("train",)
    needs_test = True
    finds_nearest = True

    kind: Literal["memorization"] = "memorization"
    quantile: float = Field(0.05, gt=0, lt=1)
    """The fraction of test images whose distance to a training image is below the threshold."""

    def estimate(self, samples, reference, blocks, device):
        from psld.metrics.distances import memorization

        images = samples, reference.train, reference.split("test")
        samples, train, test = (each.on(device) for each in images)
        return memorization(samples, train, test, self.quantile, blocks, reference.once)


class MetricSettings(Settings):
    """The settings of a metric: a measure, computed with the features of an extractor."""

    name: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    """The name of the metric: `honest_name`, optionally with a suffix `-SUFFIX`."""
    features: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    """The name of the metric whose extractor and reference are used; by default, `name`."""
    extractor: Extractor
    """The extractor that maps images to features."""
    measure: Measure = FrechetSettings()
    """The measure that is computed from the features."""
    reference_split: Literal["train", "test"] = "train"
    """The split that samples are compared with."""
    truncated_reference: bool = False
    """Truncate real images like samples, which lowers 95 of the 256 gray levels by 1."""
    batch_size: Annotated[int, FREE] = Field(64, gt=0)
    """Images per call of the extractor; affects only speed and memory."""

    better: Annotated[Better | None, FREE] = Field(None, validate_default=True)
    """The direction in which the measure improves, stored for use without the measure's code."""

    @property
    def honest_name(self) -> str:
        """The unambiguous name of the metric.

        `fid`, `kid` and `inception-score` are reserved for Inception features. Other names combine
        the measure (fd: Fréchet distance, kd: kernel distance) with the extractor, as in
        `fd-dinov2`, `kd-classifier` and `precision-inception`.
        """
        return self.measure.name_with(self.extractor)

    @property
    def needs_test(self) -> bool:
        return self.measure.needs_test or self.reference_split == "test"

    @property
    def needs_features(self) -> bool:
        """False if the moments of blocks of images suffice, without the features of each image.

        If the extractor classifies, the class accuracy needs the logits of each image.
        """
        moments_suffice = self.measure.of_moments and not self.measure.code
        return not moments_suffice or self.extractor.classifies

    @property
    def suffix(self) -> str:
        """The suffix of the name, with its dash; an empty string if the name has no suffix."""
        return self.name.removeprefix(self.honest_name)

    def with_extractor(self, extractor: Extractor) -> Self:
        """Return the metric with another extractor. Raises UserError if the measure excludes it."""
        name = self.measure.name_with(extractor)
        content = dict(self) | {"name": name, "features": name, "extractor": extractor}
        return parse(type(self), content, name)

    def evaluate(
        self,
        samples: "Features | BlockMoments",
        reference: "Reference",
        device: "Device" = "cpu",
    ) -> Finding:
        """Return the metric of samples with its interval.

        Moments suffice for samples and reference unless the metric `needs_features`.
        Raises RunError if features are NaN or infinite, and the errors of the measure for too few
        samples.
        """
        return self._found(samples, reference, samples.blocks(), device)

    def _found(
        self,
        samples: "Features | BlockMoments",
        reference: "Reference",
        blocks: "Blocks",
        device: "Device",
    ) -> Finding:
        reference = reference._replace(compared=self.reference_split)
        if self.measure.code:  # A custom measure could reuse a cache key of a shipped measure.
            reference = reference._replace(cache=None)
        found = self.measure.estimate(cast("Features", samples), reference, blocks, device)
        return found if isinstance(found, Finding) else Finding(found)

    def exchanged_estimate(
        self,
        samples: "Features | BlockMoments",
        reference: "Reference",
        device: "Device" = "cpu",
    ) -> Estimate | None:
        """Return the metric with the interval for other draws of reference images.

        This is `evaluate` of `measure.exchanged` with samples and reference exchanged. Returns None
        if the reference has only statistics, and for measures without `exchanged`.
        """
        from psld.metrics.features import FeatureStatistics, Reference

        other, images = self.measure.exchanged, reference.split(self.reference_split)
        if other is None or isinstance(images, FeatureStatistics):
            return None
        metric = self.model_copy(update={"measure": other, "reference_split": "train"})
        return metric.evaluate(images.numbered(), Reference(samples, None, None), device).estimate

    def value(
        self,
        images: "Features | BlockMoments | FeatureStatistics",
        reference: "Reference",
        device: "Device" = "cpu",
    ) -> float:
        """Return the metric without its interval. Measures `of_moments` need only moments."""
        if self.measure.of_moments:
            return self.measure.value(images.total, reference.split(self.reference_split).total)
        # The interval is unused, so use as few blocks as possible.
        samples = cast("Features", images)
        return self._found(samples, reference, samples.blocks(2), device).estimate.value

    def scale(self, reference: "Reference", device: "Device" = "cpu") -> dict[str, float | None]:
        """Return the metric of real images outside the reference (`floor`), and of noise (`noise`).

        A value is None if these images are missing. The floor uses all images of the held-out
        split. A Fréchet distance or a recall is comparable to the floor only at equal n.
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
    def _set_default_features(cls, content: Any) -> Any:
        if isinstance(content, dict):
            return {"features": content.get("name")} | content
        return content

    @field_validator("better", mode="before")
    @classmethod
    def _copy_better_from_measure(cls, better: Any, info: ValidationInfo) -> Any:
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
