"""What a part of one's own is made of: the base class of each noun (docs/extending.md)."""

from psld.config.settings import FREE, Neutral
from psld.data.settings import Images, Source
from psld.diffusion.guidance import Guidance, Label, Mask
from psld.diffusion.samplers import SamplerSettings as Sampler
from psld.diffusion.samplers import TimeGridSampler
from psld.metrics.settings import Extractor, Measure
from psld.networks.settings import Network
from psld.training.objectives import Denoiser, Epsilon, Guide, Objective
from psld.training.recipe import Average, Logger, Optimizer, Schedule

__all__ = [
    "FREE",
    "Average",
    "Denoiser",
    "Epsilon",
    "Extractor",
    "Guidance",
    "Guide",
    "Images",
    "Label",
    "Logger",
    "Mask",
    "Measure",
    "Network",
    "Neutral",
    "Objective",
    "Optimizer",
    "Sampler",
    "Schedule",
    "Source",
    "TimeGridSampler",
]
