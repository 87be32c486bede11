"""What a part of one's own is made of: the base class of each noun (docs/extending.md)."""

from psld.config.settings import FREE, Neutral
from psld.data.settings import Images, Source
from psld.diffusion.samplers import SamplerSettings as Sampler
from psld.diffusion.samplers import TimeGridSampler
from psld.networks.settings import Network

__all__ = ["FREE", "Images", "Network", "Neutral", "Sampler", "Source", "TimeGridSampler"]
