"""The base classes of custom parts, which users define in their own files (docs/extending.md).

class Mixer(Network):                   # mynets.py: psld train network=mynets:Mixer
    width: int = 64

    def build(self, in_channels, out_channels, image_size, num_classes):
        ...                             # a torch.nn.Module, called with (z, t)

`FREE` marks a field that does not affect results. `Neutral(x)` marks a field that does not affect
results if its value is x.
"""

from psld.config.reads import CellRead, ModelRead, WeightsFile
from psld.config.settings import FREE, Neutral
from psld.data.settings import Autoencoder, Images, Source
from psld.diffusion.guidance import Guidance, Label, Mask
from psld.diffusion.samplers import SamplerSettings as Sampler
from psld.diffusion.samplers import TimeGridSampler
from psld.diffusion.settings import Beta
from psld.diffusion.settings import PhaseSpaceSettings as PhaseSpace
from psld.diffusion.settings import ProcessSettings as Process
from psld.metrics.settings import Extractor, Measure
from psld.models.objectives import Denoiser, Epsilon, Guide, Objective
from psld.models.recipe import Average, Logger, Optimizer, Schedule
from psld.networks.settings import Network

__all__ = [
    "FREE",
    "Autoencoder",
    "Average",
    "Beta",
    "CellRead",
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
    "ModelRead",
    "Network",
    "Neutral",
    "Objective",
    "Optimizer",
    "PhaseSpace",
    "Process",
    "Sampler",
    "Schedule",
    "Source",
    "TimeGridSampler",
    "WeightsFile",
]
