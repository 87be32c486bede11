"""The memory of an evaluation on a GPU, counted without one."""

import torch

from psld.metrics.classifier import ClassifierExtractor, FeatureClassifier, ImageShape
from psld.metrics.reference_folder import published_extractor
from psld.metrics.settings import ClassifierSettings, ExtractorSettings
from psld.utils.memory import PeakMemory


def evaluation_memory(settings: ExtractorSettings, shape: ImageShape, images: int) -> int:
    """Return the most bytes of tensors on a GPU while an extractor maps so many images at once.

    Weights are counted but not read. Not counted: what is no tensor, features of earlier images,
    and their distances. Raises UserError if the packages of a network are missing.
    """
    with PeakMemory() as memory, torch.device("meta"):
        if isinstance(settings, ClassifierSettings):
            extractor = ClassifierExtractor(FeatureClassifier(settings, shape), "meta")
        else:
            extractor = published_extractor(settings, "meta")
        size = (images, shape.channels, shape.image_size, shape.image_size)
        batch = torch.empty(size, dtype=torch.uint8)
        memory.peak = memory.live
        extractor(batch)
    return memory.peak
