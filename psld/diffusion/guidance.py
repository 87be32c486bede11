"""Settings of guidance, checked without torch: to a class, and to known pixels."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from psld.config.settings import Settings


def _check_classes(label: object) -> object:
    classes = label if isinstance(label, list | tuple) else [label]
    if not classes or any(isinstance(c, bool) or not isinstance(c, int | str) for c in classes):
        raise ValueError(f"a class is a number or a name, and several are a list; got {label!r}")
    return label


Label = Annotated[int | str | tuple[int | str, ...], BeforeValidator(_check_classes)]
"""A class for all samples, by number or name; a list, of which sample i gets entry i mod its
length; or `cycle`, the list of all classes."""


class NoGuidance(Settings):
    """Plain samples of the model; a class-conditional model samples without a class."""

    kind: Literal["none"] = "none"


class ClassifierGuidance(Settings):
    """Guidance by a noise-conditional guide: its gradient is added to the score (paper, Eq. 13)."""

    kind: Literal["classifier"]
    scale: float = Field(gt=0)
    """Factor of ∇ log p(y | z_t): 1 is Bayes' rule; more gives purer classes and less variety."""
    label: Label
    """The class of the samples by number or name, a list of classes, or `cycle`."""
    official_time: bool = False
    """Give the guide the reverse time 1 − t, as the official code does when sampling."""


class ClassifierFreeGuidance(Settings):
    """Guidance of a class-conditional model, away from its own prediction without a class."""

    kind: Literal["classifier-free"]
    scale: float = Field(gt=0)
    """ε = ε(∅) + scale · (ε(y) − ε(∅)): 1 is the model's own conditional distribution."""
    label: Label
    """The class of the samples by number or name, a list of classes, or `cycle`."""


class HalvesMask(Settings):
    """Holes of half an image."""

    kind: Literal["halves"]
    missing: Literal["left", "right", "top", "bottom", "cycle"]
    """The hole; `cycle` takes the four sides in turn, image by image."""


class DigitsMask(Settings):
    """Holes in the shape of digits: MNIST's training digit i in image i, as in the paper."""

    kind: Literal["digits"]


class InpaintingGuidance(Settings):
    """Inpainting: sample i fills in the hole in image i of a split."""

    kind: Literal["inpainting"]
    split: Literal["train", "test"]
    """The images to fill in. A cell has no more samples than the split has images."""
    mask: Annotated[HalvesMask | DigitsMask, Field(discriminator="kind")]


GuidanceSettings = Annotated[
    NoGuidance | ClassifierGuidance | ClassifierFreeGuidance | InpaintingGuidance,
    Field(discriminator="kind"),
]
