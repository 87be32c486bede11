"""The shipped guidance: to classes, and to known pixels; and masks of halves. No torch."""

from typing import Any, Literal

from pydantic import Field

from psld.diffusion.guidance import Guidance, Label, Mask
from psld.training.settings import GuideModelSettings, ModelSettings
from psld.utils.errors import UserError


class ClassifierGuidance(Guidance):
    """Guidance by a noise-conditional guide: its gradient is added to the score (paper, Eq. 13)."""

    needs_guide = True

    kind: str = "classifier"
    scale: float = Field(5.0, gt=0)
    """Factor of ∇ log p(y | z_t): 1 is Bayes' rule; more gives purer classes and less variety."""
    label: Label = "cycle"
    """The class of the samples by number or name, a list of classes, or `cycle`."""
    official_time: bool = False
    """Give the guide the reverse time 1 − t, as the official code does when sampling."""

    def check(self, sampler: Any, model: ModelSettings, guide: GuideModelSettings | None) -> None:
        """Check that the guide was trained on the model's dataset, noised by its process."""
        if guide is None:
            raise UserError("guidance by a guide needs one (psld train_guide)")
        for key in ("name", "channels", "image_size", "num_classes"):
            theirs, ours = getattr(guide.dataset, key), getattr(model.dataset, key)
            if theirs != ours:
                raise UserError(
                    f"the guide was trained with dataset.{key} {theirs}, the model with {ours}; "
                    "train a guide on the model's dataset"
                )
        if not guide.serves_every_process and guide.process != model.process:
            raise UserError(
                "the guide was trained on images noised by another process than the model's; "
                "train one with the model's process"
            )
        if self.official_time and guide.serves_every_process:
            wrong = "this guide takes noise levels, not times"
            raise UserError(f"sampler.guidance.official_time: {wrong}")
        if self.official_time and guide.network.takes_logarithm:
            raise UserError(
                "sampler.guidance.official_time: this guide embeds the logarithm of the time, and "
                "the reverse time begins at 0; use a guide with network.embedding=positional"
            )

    def build(self, process, eps, batching, labels, logits):
        from psld.diffusion.score import ClassifierGuidedScore, NetworkScore

        plain = NetworkScore(eps, batching)
        options = self.scale, batching, self.official_time
        return ClassifierGuidedScore(plain, logits, labels, *options)


class ClassifierFreeGuidance(Guidance):
    """Guidance of a class-conditional model, away from its own prediction without a class."""

    kind: str = "classifier-free"
    scale: float = Field(2.0, gt=0)
    """ε = ε(∅) + scale · (ε(y) − ε(∅)): 1 is the model's own conditional distribution."""
    label: Label = "cycle"
    """The class of the samples by number or name, a list of classes, or `cycle`."""

    @property
    def evaluations(self):
        return 1 if self.scale == 1 else 2

    def check(self, sampler: Any, model: ModelSettings, guide: Any) -> None:
        if not model.num_classes and sampler.evaluations != 0:
            raise UserError(
                "classifier-free guidance needs a class-conditional model; train one with "
                "training.label_dropout=0.1, or give a guide"
            )

    def build(self, process, eps, batching, labels, logits):
        from psld.diffusion.score import ClassifierFreeScore

        return ClassifierFreeScore(eps, labels, self.scale, batching)


class HalvesMask(Mask):
    """Holes of half an image."""

    kind: str = "halves"
    missing: Literal["left", "right", "top", "bottom", "cycle"] = "cycle"
    """The hole; `cycle` takes the four sides in turn, image by image."""

    def draw(self, indices, image_size, mnist):
        import numpy as np

        sides = ("left", "right", "top", "bottom") if self.missing == "cycle" else (self.missing,)
        known = np.ones((len(indices), image_size, image_size), np.uint8)
        for mask, index in zip(known, indices, strict=True):
            side, half = sides[index % len(sides)], image_size // 2
            rows_or_columns = mask.T if side in ("left", "right") else mask
            first = 0 if side in ("left", "top") else image_size - half
            rows_or_columns[first : first + half] = 0
        return known


class InpaintingGuidance(Guidance):
    """Inpainting: sample i fills in the hole in image i of a split."""

    kind: str = "inpainting"
    split: Literal["train", "test"] = "test"
    """The images to fill in. A cell has no more samples than the split has images."""
    mask: Mask = HalvesMask()
    """The holes."""

    @property
    def holes(self):
        return self.split, self.mask
