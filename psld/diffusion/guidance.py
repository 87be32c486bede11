"""Guidance, which steers the samples, and masks, which mark the known pixels."""

from collections.abc import Callable, Sequence
from functools import cached_property
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from psld.config.parts import Part
from psld.utils.errors import UserError
from psld.utils.numbers import Size

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from psld.diffusion.process import LinearProcess
    from psld.diffusion.score import Score
    from psld.utils.batching import Batching


def _check_classes(label: object) -> object:
    classes = label if isinstance(label, list | tuple) else [label]
    if not classes or any(isinstance(c, bool) or not isinstance(c, int | str) for c in classes):
        raise ValueError(f"must be a class number, a class name or a list of these; got {label!r}")
    return label


Label = Annotated[int | str | tuple[int | str, ...], BeforeValidator(_check_classes)]
"""The classes of the samples: one class, given by number or name; a list of classes, which the
samples take in turn; or `cycle`, which stands for the list of all classes."""


class Mask(Part):
    """The base class of masks, which mark the known pixels; a sampler fills in the other pixels."""

    noun = "mask"

    kind: str

    datasets: ClassVar[tuple[str, ...]] = ()
    """The prepared datasets that the mask reads, by name. `psld sample` can provide `mnist`."""

    def draw(self, indices: range, image_size: Size, mnist: str | None) -> "np.ndarray":
        """Return masks, N×H×W: 1 marks a known pixel, 0 the hole.

        Args:
            indices: the indices of the images. Image i must get the same mask in every call.
            image_size: H if H = W, else (H, W).
            mnist: the path of the prepared MNIST if `datasets` contains it, else None.
        """
        raise NotImplementedError


class Guidance(Part):
    """The base class of guidance, which changes the score or fixes known pixels of the samples.

    A custom guidance overrides `build`, and other methods as needed.
    """

    noun = "guidance"
    recorded_attributes = ("evaluations", "files", "inpaints", "is_none", "needs_guide")

    kind: str

    evaluations: ClassVar[int | None] = 1
    """Network evaluations per evaluation of the score; None if their number varies with time. If
    the number depends on the settings, a subclass overrides the attribute with a property."""
    needs_guide: ClassVar[bool] = False
    """True if `build` needs the logits of a guide (`psld train_guide`)."""

    is_none: ClassVar[bool] = False
    """True if the samples are not guided."""
    holes: ClassVar[tuple[Literal["train", "test"], Mask] | None] = None
    """The split whose images are filled in, and the mask; None without inpainting. Inpainting
    overrides the attribute with a property."""

    @cached_property
    def inpaints(self) -> bool:
        return self.holes is not None

    @property
    def asks_for_classes(self) -> bool:
        """True if the guidance has a field `label: Label` for the classes of the samples."""
        return hasattr(self, "label")

    @cached_property
    def files(self) -> tuple[str, ...]:
        """The files that the guidance needs: keys of `psld sample`, such as `guide` and `data`."""
        guide = ("guide",) if self.needs_guide else ()
        return (*guide, "data", *self.holes[1].datasets) if self.holes else guide

    def check(self, sampler: Any, model: Any, guide: Any) -> None:
        """Raise UserError before sampling if the guidance does not suit the model.

        Args:
            sampler: the settings of the sampler (`psld.diffusion.samplers.SamplerSettings`) that
                contain this guidance.
            model: the settings of the model's training (`psld.models.settings.ModelSettings`).
            guide: the settings of the guide's training (`GuideModelSettings`), or None.
        """

    def classes(self, dataset: Any, class_names: Sequence[str]) -> list[int]:
        """Return the classes that the samples take in turn; [] if there is no field `label`.

        Args:
            dataset: the settings of the model's dataset (`psld.data.settings.DatasetSettings`).
            class_names: the names of the classes by number; empty if no model is loaded.

        Raises UserError for a class that the dataset does not have.
        """
        label = getattr(self, "label", None)
        return [] if label is None else _class_numbers(label, dataset, class_names)

    def build(
        self,
        process: "LinearProcess",
        eps: "Callable[..., Tensor]",
        batching: "Batching",
        labels: Any,
        logits: Any,
    ) -> "Score":
        """Return the score of one shard of images; the score counts the network evaluations.

        `psld.diffusion.score` has building blocks, such as `GuidedScore`, which adds a gradient.

        Args:
            process: the forward process.
            eps: the network ε(z, t), or ε(z, t, label) of a class-conditional model, for states
                N×kC×H×W and N times.
            batching: evaluates functions of the shard's images in batches.
            labels: the class of each image, N; None without classes.
            logits: the guide as a function of (z, t) that returns N×classes; None unless
                `needs_guide`.
        """
        from psld.diffusion.score import NetworkScore

        return NetworkScore(eps, batching)


def _class_numbers(label: Label, dataset: Any, class_names: Sequence[str]) -> list[int]:
    if not dataset.num_classes:
        raise UserError(f"sampler.guidance: needs classes, but dataset {dataset.name} has none")
    if label == "cycle":
        return list(range(dataset.num_classes))
    classes = []
    for each in label if isinstance(label, tuple | list) else (label,):
        named = class_names.index(str(each)) if str(each) in class_names else None
        number = named if isinstance(each, str) else each
        if isinstance(each, int) and named not in (None, each):
            other = class_names[each] if each < len(class_names) else "no class"
            readings = f"{each} is the name of class {named}, and the number of {other}"
            raise UserError(f"sampler.guidance.label: {readings}; put the name in quotes: '{each}'")
        if number not in range(dataset.num_classes):
            names = shorten(", ".join(class_names), 200, placeholder=" …") or "names unknown"
            raise UserError(
                f"sampler.guidance.label: dataset {dataset.name} has no class {each}; give 0 to "
                f"{dataset.num_classes - 1}, a name or cycle ({names})"
            )
        classes.append(number)
    return classes


# -- built-in guidance -----------------------------------------------------------------------------


class NoGuidance(Guidance):
    """No guidance. A class-conditional model is sampled without a class."""

    is_none = True

    kind: str = "none"


class ClassifierGuidance(Guidance):
    """Adds the gradient of a noise-conditional classifier to the score (paper, Eq. 13)."""

    needs_guide = True

    kind: str = "classifier"
    scale: float = Field(5.0, gt=0)
    """Factor of ∇ log p(y | z_t). 1 gives Bayes' rule; larger values give purer classes and less
    variety."""
    label: Label = "cycle"
    """The class of the samples by number or name, a list of classes, or `cycle`."""
    official_time: bool = False
    """Give the guide the reverse time 1 − t, as the official code does when sampling."""

    def check(self, sampler, model, guide):
        """Check that the guide was trained on the dataset and the process of the model."""
        if guide is None:
            raise UserError("sampler.guidance: needs a guide; train a guide with psld train_guide")
        for key in ("name", "dtype", "channels", "image_size", "num_classes"):
            theirs, ours = getattr(guide.dataset, key), getattr(model.dataset, key)
            if theirs != ours:
                raise UserError(
                    f"the guide was trained with dataset.{key} {theirs}, the model with {ours}; "
                    "train a guide on the model's dataset"
                )
        if not guide.serves_every_process and guide.process != model.process:
            raise UserError(
                "the guide was trained with a different process than the model; "
                "train a guide with the model's process"
            )
        if self.official_time and guide.serves_every_process:
            wrong = "this guide accepts noise levels, not times; set it to false"
            raise UserError(f"sampler.guidance.official_time: {wrong}")
        if self.official_time and guide.network.takes_logarithm:
            raise UserError(
                "sampler.guidance.official_time: this guide embeds the logarithm of the time, but "
                "the reverse time begins at 0; use a guide with network.embedding=positional"
            )

    def build(self, process, eps, batching, labels, logits):
        from psld.diffusion.score import GuidedScore, NetworkScore, class_gradient

        gradient = class_gradient(logits, labels, batching, self.official_time)
        return GuidedScore(NetworkScore(eps, batching), gradient, self.scale)


class ClassifierFreeGuidance(Guidance):
    """Moves a class-conditional prediction away from the model's prediction without a class."""

    kind: str = "classifier-free"
    scale: float = Field(2.0, gt=0)
    """ε = ε(∅) + scale · (ε(y) − ε(∅)). A scale of 1 gives the model's conditional distribution."""
    label: Label = "cycle"
    """The class of the samples by number or name, a list of classes, or `cycle`."""

    @property
    def evaluations(self):
        return 1 if self.scale == 1 else 2

    def check(self, sampler, model, guide):
        if not model.num_classes and sampler.evaluations != 0:
            raise UserError(
                "classifier-free guidance needs a class-conditional model; train a model with "
                "training.label_dropout=0.1, or use classifier guidance with a guide"
            )

    def build(self, process, eps, batching, labels, logits):
        from psld.diffusion.score import NetworkScore

        return NetworkScore(eps, batching, labels, self.scale)


class HalvesMask(Mask):
    """Holes that cover half of an image."""

    kind: str = "halves"
    missing: Literal["left", "right", "top", "bottom", "cycle"] = "cycle"
    """The side that is missing; `cycle` takes the four sides in turn, image by image."""

    def draw(self, indices, image_size, mnist):
        import numpy as np

        sides = ("left", "right", "top", "bottom") if self.missing == "cycle" else (self.missing,)
        shape = (image_size, image_size) if isinstance(image_size, int) else image_size
        known = np.ones((len(indices), *shape), np.uint8)
        for mask, index in zip(known, indices, strict=True):
            side = sides[index % len(sides)]
            rows_or_columns = mask.T if side in ("left", "right") else mask
            half = len(rows_or_columns) // 2
            first = 0 if side in ("left", "top") else len(rows_or_columns) - half
            rows_or_columns[first : first + half] = 0
        return known


class InpaintingGuidance(Guidance):
    """Inpainting: sample i fills in the hole of image i of a split."""

    kind: str = "inpainting"
    split: Literal["train", "test"] = "test"
    """The split with the images to fill in. Each image of the split receives at most one sample."""
    mask: Mask = HalvesMask()
    """The mask, which defines the holes."""

    @property
    def holes(self):
        return self.split, self.mask
