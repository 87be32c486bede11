"""Settings of sampling: guidance, masks, and everything that decides a cell's images. No torch."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from psld.config.settings import Settings
from psld.diffusion.settings import (
    ConjugateSettings,
    GDDIMSettings,
    MultistepSettings,
    RK45Settings,
    SDESettings,
)
from psld.utils.files import digest_of

Label = Annotated[int, Field(ge=0)] | Literal["cycle"]
"""A class for all samples, or `cycle`: sample i gets class i mod the number of classes."""


class NoGuidance(Settings):
    """Plain samples of the model; a class-conditional model samples without a class."""

    kind: Literal["none"] = "none"


class ClassifierGuidance(Settings):
    """Guidance by a noise-conditional guide: its gradient is added to the score (paper, Eq. 13)."""

    kind: Literal["classifier"]
    scale: float = Field(gt=0)
    """Factor of ∇ log p(y | z_t): 1 is Bayes' rule; more gives purer classes and less variety."""
    label: Label
    """The class of the samples, or `cycle`."""
    official_time: bool = False
    """Give the guide the reverse time 1 − t, as the official code does when sampling."""


class ClassifierFreeGuidance(Settings):
    """Guidance of a class-conditional model, away from its own prediction without a class."""

    kind: Literal["classifier-free"]
    scale: float = Field(gt=0)
    """ε = ε(∅) + scale · (ε(y) − ε(∅)): 1 is the model's own conditional distribution."""
    label: Label
    """The class of the samples, or `cycle`."""


class BoxesMask(Settings):
    """Rectangular holes at random places."""

    kind: Literal["boxes"]
    count: int = Field(ge=1)
    """Holes in an image; they may overlap."""
    smallest: float = Field(gt=0, lt=1)
    """Shortest side of a hole, as a fraction of the image's."""
    largest: float = Field(gt=0, lt=1)
    """Longest side of a hole, as a fraction of the image's."""
    seed: int = Field(ge=0)
    """The holes of image i come from (seed, i)."""

    @model_validator(mode="after")
    def _sides_are_ordered(self) -> "BoxesMask":
        if self.largest < self.smallest:
            raise ValueError(f"largest {self.largest} is less than smallest {self.smallest}")
        return self


class HalvesMask(Settings):
    """Holes of half an image."""

    kind: Literal["halves"]
    missing: Literal["left", "right", "top", "bottom", "cycle"]
    """The hole; `cycle` takes the four sides in turn, image by image."""


class DigitsMask(Settings):
    """Holes in the shape of digits: MNIST's training digit i in image i, as in the paper."""

    kind: Literal["digits"]


class FileMask(Settings):
    """Masks of your own, in a file of numpy.save."""

    kind: Literal["file"]
    path: str
    """NPY file of an array n×H×W, 1 for a known pixel and 0 in the hole: mask i for image i, or a
    single one (n = 1) for all."""


MaskSettings = Annotated[
    BoxesMask | HalvesMask | DigitsMask | FileMask, Field(discriminator="kind")
]


class InpaintingGuidance(Settings):
    """Inpainting: sample i fills in the hole in image i of a split."""

    kind: Literal["inpainting"]
    split: Literal["train", "test"]
    """The images to fill in. A cell has no more samples than the split has images."""
    mask: MaskSettings


GuidanceSettings = Annotated[
    NoGuidance | ClassifierGuidance | ClassifierFreeGuidance | InpaintingGuidance,
    Field(discriminator="kind"),
]


class GuidedSettings(Settings):
    """The part of a sampler that its integrator does not decide."""

    guidance: GuidanceSettings = NoGuidance()
    """The guidance of the samples, if any."""


class SDESampler(GuidedSettings, SDESettings):
    """Euler–Maruyama or SSCS, and its guidance."""


class MultistepSampler(GuidedSettings, MultistepSettings):
    """The exponential multistep sampler, and its guidance."""


class GDDIMSampler(GuidedSettings, GDDIMSettings):
    """Generalized DDIM, and its guidance."""


class ConjugateSampler(GuidedSettings, ConjugateSettings):
    """A conjugate integrator, and its guidance."""


class RK45Sampler(GuidedSettings, RK45Settings):
    """RK45, and its guidance."""

    @model_validator(mode="after")
    def _suits_adaptive_steps(self) -> "RK45Sampler":
        if isinstance(self.guidance, InpaintingGuidance):
            raise ValueError(
                "inpainting puts the known pixels back after each step of a fixed time grid, and "
                "rk45 has none; use another sampler"
            )
        if self.precision == "bf16":
            raise ValueError(
                "bf16 has an error above the tolerances of rk45, whose steps would follow the "
                "rounding; use precision=fp32, or a sampler with a fixed time grid"
            )
        return self


SamplerSettings = Annotated[
    SDESampler | RK45Sampler | MultistepSampler | GDDIMSampler | ConjugateSampler,
    Field(discriminator="integrator"),
]


class SamplingRun(Settings):
    """How sampling runs: speed and memory, never the images."""

    batch_size: int = Field(ge=1)
    """Most images per network evaluation; it is halved if GPU memory runs out."""
    compile: bool
    """Compile the network with torch.compile."""
    channels_last: bool
    """Lay out the network with the channels innermost."""
    device: str
    """`auto`, or a torch device such as `cpu` or `cuda`."""


class CellSettings(Settings):
    """Everything that decides the images of a cell: shared by sampling and evaluation."""

    model: str
    """Folder of a trained model."""
    sampler: SamplerSettings
    guide: str | None
    """Folder of the noise-conditional guide, for guidance by one."""
    data: str | None
    """The prepared dataset, HDF5, for inpainting."""
    mnist: str | None
    """The prepared MNIST, HDF5, for masks of its digits."""
    shard_size: int = Field(ge=1)
    """Images per shard."""
    seed: int = Field(ge=0)
    """Seed of all shards of a cell."""
    device: str
    """`auto`, or a torch device such as `cpu` or `cuda`."""

    @model_validator(mode="after")
    def _guidance_has_its_files(self) -> "CellSettings":
        guidance = self.sampler.guidance
        inpaints = isinstance(guidance, InpaintingGuidance)
        needs = {
            "guide": isinstance(guidance, ClassifierGuidance),
            "data": inpaints,
            "mnist": inpaints and isinstance(guidance.mask, DigitsMask),
        }
        for key, needed in needs.items():
            given = getattr(self, key)
            if needed and given is None:
                raise ValueError(f"{key}: sampler.guidance needs it; it is null")
            if given is not None and not needed:
                raise ValueError(f"{key}: sampler.guidance has no use for {given}; set it to null")
        return self


class SampleSettings(SamplingRun, CellSettings):
    """Settings of `psld sample`."""

    first: int = Field(ge=0)
    """Index of the first shard. Shard j begins with sample j · shard_size."""
    shards: int = Field(ge=1)
    """Number of shards to make."""
    output: str
    """Folder that receives the shards 00000.safetensors, … and the record of their range."""
    png: str | None
    """A folder that receives each image as a PNG, or a file NAME.png for all in one; null: none."""


def images_digest(
    model: str, guide: str | None, sampler: SamplerSettings, seed: int, shard_size: int
) -> str:
    """Return the digest of what decides a cell's images, from those of model and guide."""
    settings = sampler.model_dump(mode="json", exclude_none=True)
    return digest_of([model, guide, settings, seed, shard_size])


def shards_needed(samples: int, shard_size: int) -> int:
    """The number of shards that hold `samples` images."""
    return -(-samples // shard_size)
