"""What steers one shard: its score, its labels, and the pixels that are known."""

from dataclasses import dataclass

import torch
from torch import Tensor

from psld.data.pixels import from_uint8
from psld.data.store import ImageStore
from psld.diffusion.inpainting import Inpainting
from psld.diffusion.score import (
    Batching,
    ClassifierFreeScore,
    ClassifierGuidedScore,
    NetworkScore,
    Score,
)
from psld.sampling.masks import masks_of
from psld.sampling.settings import (
    ClassifierFreeGuidance,
    ClassifierGuidance,
    InpaintingGuidance,
    Label,
    SampleSettings,
)
from psld.training.model import Guide, Model
from psld.utils.errors import UserError


@dataclass(frozen=True)
class Guidance:
    """What the sampling loop and the shard need to know of the guidance."""

    size: int
    """Images in the shard."""
    score: Score
    labels: Tensor | None = None
    """The class that each image is guided to, int64."""
    inpainting: Inpainting | None = None


def guidance_of(
    settings: SampleSettings,
    model: Model,
    guide: Guide | None,
    shard: int,
    device: torch.device,
    batch: Batching,
) -> Guidance:
    """The guidance of one shard.

    Raises UserError if the shard has no images to inpaint.
    """
    first, size = shard * settings.shard_size, settings.shard_size
    indices = range(first, first + size)
    plain = NetworkScore(model.network, batch)
    match settings.sampler.guidance:
        case ClassifierGuidance(label=label, scale=scale, official_time=official_time):
            labels = labels_of(label, indices, model, device)
            score = ClassifierGuidedScore(plain, guide.network, labels, scale, batch, official_time)
            return Guidance(size, score, labels)
        case ClassifierFreeGuidance(label=label, scale=scale):
            labels = labels_of(label, indices, model, device)
            return Guidance(size, ClassifierFreeScore(model.network, labels, scale, batch), labels)
        case InpaintingGuidance() as guidance:
            inpainting = inpainting_of(settings, guidance, model, indices, device)
            return Guidance(len(inpainting.images), plain, inpainting=inpainting)
    return Guidance(size, plain)


def labels_of(label: Label, indices: range, model: Model, device: torch.device) -> Tensor:
    """The class of each sample, by its index in the cell."""
    samples = torch.tensor(indices, device=device)
    if label == "cycle":
        return samples % model.settings.dataset.num_classes
    return torch.full_like(samples, label)


def inpainting_of(
    settings: SampleSettings,
    guidance: InpaintingGuidance,
    model: Model,
    indices: range,
    device: torch.device,
) -> Inpainting:
    """The images of the split at these indices, as far as there are, and their masks."""
    dataset = model.settings.dataset
    images = ImageStore.open_for(settings.data, dataset).images(guidance.split)
    if indices.start >= len(images):
        raise UserError(
            f"shard {indices.start // settings.shard_size}: begins at image {indices.start}, but "
            f"the {guidance.split} split of {settings.data} has {len(images)}; "
            "ask for no more samples than images"
        )
    indices = indices[: len(images) - indices.start]
    masks = masks_of(guidance.mask, indices, dataset.image_size, settings.mnist)
    known = torch.from_numpy(images[indices.start : indices.stop].copy()).to(device)
    return Inpainting(model.process, from_uint8(known), torch.from_numpy(masks)[:, None].to(device))
