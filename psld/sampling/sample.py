"""Sampling the shards of a cell: one process makes many shards and loads the model once."""

import time
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from psld.data.pixels import from_uint8, to_uint8
from psld.data.store import ImageStore
from psld.diffusion.inpainting import Inpainting
from psld.diffusion.loop import sample
from psld.diffusion.process import LinearProcess
from psld.diffusion.score import (
    Batching,
    ClassifierFreeScore,
    ClassifierGuidedScore,
    NetworkScore,
    Score,
)
from psld.diffusion.settings import IntegrationSettings
from psld.networks.forward import forward_pass
from psld.sampling.fit import check_fit
from psld.sampling.masks import masks_digest, masks_of
from psld.sampling.noise import ShardNoise
from psld.sampling.settings import (
    CellSettings,
    ClassifierFreeGuidance,
    ClassifierGuidance,
    InpaintingGuidance,
    SamplerSettings,
    SampleSettings,
)
from psld.sampling.shards import Shard, ShardOrigin, load_made_by, shard_path
from psld.training.model import Guide, Model, load_guide, load_model
from psld.utils.device import device_of, use_device
from psld.utils.errors import RunError, UserError
from psld.utils.files import digest_of
from psld.utils.provenance import device_name


def origin_of(cell: CellSettings, weights_sha256: str, guide_sha256: str | None) -> ShardOrigin:
    """Return the origin of a cell's shard 0; those of other shards differ in the index alone."""
    guidance = cell.sampler.guidance
    inpaints = isinstance(guidance, InpaintingGuidance)
    return ShardOrigin(
        weights_sha256=weights_sha256,
        sampler_digest=digest_of(cell.sampler.model_dump(mode="json", exclude_none=True)),
        seed=cell.seed,
        index=0,
        size=cell.shard_size,
        guide_sha256=guide_sha256,
        dataset_digest=ImageStore.open(cell.data).digest if inpaints else None,
        masks_digest=masks_digest(guidance.mask, cell.mnist) if inpaints else None,
    )


def sample_shards(settings: SampleSettings) -> Iterator[tuple[Shard, bool]]:
    """Yield each shard of the range, and True if it was made now, not found whole.

    Each shard is written when it is done, so a killed process loses at most one. Before a file is
    replaced, the reason is printed.
    """
    device = use_device(settings.device, tf32=True)
    model = load_model(settings.model, device)
    called = forward_pass(
        model.network,
        settings.sampler.precision,
        compile=settings.compile,
        channels_last=settings.channels_last,
    )
    model = replace(model, network=called)
    guide = load_guide(settings.guide, device) if settings.guide else None
    check_fit(settings.sampler, model.settings, guide and guide.settings)
    expected = origin_of(settings, model.weights_sha256, guide and guide.weights_sha256)
    batching = Batching(settings.batch_size)
    for index in range(settings.first, settings.first + settings.shards):
        path, origin = shard_path(settings.output, index), expected.at(index)
        try:
            yield load_made_by(path, origin), False
        except UserError as error:
            if path.exists():
                print(f"not kept: {error}", flush=True)
            shard = sample_shard(settings, model, guide, origin, batching)
            shard.save(path)
            yield shard, True


def sample_shard(
    settings: SampleSettings,
    model: Model,
    guide: Guide | None,
    origin: ShardOrigin,
    batching: Batching,
) -> Shard:
    """Sample all images of one shard. `model` has its network as it is called (`forward_pass`).

    The noise comes from (seed, shard) and is drawn for the whole shard at each step, so an image
    depends neither on the batch size nor on the worker, nor, up to rounding, on the device.
    """
    started = time.monotonic()
    device = device_of(model.network)
    indices = range(origin.index * origin.size, (origin.index + 1) * origin.size)
    inpainting = None
    if isinstance(settings.sampler.guidance, InpaintingGuidance):
        inpainting = _inpainting_of(settings, model, origin, indices, device)
        indices = indices[: len(inpainting.images)]  # fewer at the end of the split
    key = (settings.seed, origin.index)
    x, labels, nfe = sample_images(
        model, guide, settings.sampler, indices, key, batching, inpainting
    )
    return Shard(
        images=to_uint8(x).cpu().numpy(),
        origin=origin,
        nfe=nfe,
        seconds=time.monotonic() - started,
        device=device_name(device),
        labels=None if labels is None else labels.cpu().numpy(),
        masks=None if inpainting is None else inpainting.mask[:, 0].byte().cpu().numpy(),
    )


def sample_images(
    model: Model,
    guide: Guide | None,
    sampler: SamplerSettings,
    indices: range,
    key: tuple[int, int],
    batching: Batching,
    inpainting: Inpainting | None = None,
) -> tuple[Tensor, Tensor | None, int]:
    """Sample the images with these indices in a cell.

    Args:
        key: seed and shard of their noise.

    Returns:
        The images, N×C×H×W in about [−1, 1]; the class that each was guided to, if any; and the
        number of network evaluations per image.

    Raises:
        RunError: an image is not finite.
    """
    device, dataset = device_of(model.network), model.settings.dataset
    guidance, labels = sampler.guidance, None
    if isinstance(guidance, ClassifierGuidance | ClassifierFreeGuidance):
        labels = torch.tensor(indices, device=device)
        cycles = guidance.label == "cycle"
        labels = labels % dataset.num_classes if cycles else labels.fill_(guidance.label)
    score: Score = NetworkScore(model.network, batching)
    match guidance:
        case ClassifierGuidance(scale=scale, official_time=official_time):
            score = ClassifierGuidedScore(
                score, guide.network, labels, scale, batching, official_time
            )
        case ClassifierFreeGuidance(scale=scale):
            score = ClassifierFreeScore(model.network, labels, scale, batching)
    shape = (len(indices), dataset.channels, dataset.image_size, dataset.image_size)
    x = draw_images(model.process, sampler, score, shape, key, device, inpainting)
    return x, labels, score.evaluations


def draw_images(
    process: LinearProcess,
    sampler: IntegrationSettings,
    score: Score,
    shape: tuple[int, int, int, int],
    key: tuple[int, int],
    device: torch.device,
    inpainting: Inpainting | None = None,
) -> Tensor:
    """Sample images of this shape, N×C×H×W, from the noise of a seed and a shard (`key`).

    Raises RunError if an image is not finite.
    """
    n, channels, *size = shape
    with ShardNoise(*key, (n, process.blocks * channels, *size), device) as noise:
        z = sample(process, sampler, score, process.prior(noise()), noise, inpainting)
    if not torch.isfinite(z).all():
        raise RunError(f"shard {key[1]}: the sampler produced NaN or infinity")
    return z[:, :channels]


def _inpainting_of(
    settings: SampleSettings,
    model: Model,
    origin: ShardOrigin,
    indices: range,
    device: torch.device,
) -> Inpainting:
    """Return the images of the split at these indices, as far as they exist, and their masks.

    Raises UserError if they are not those of the origin.
    """
    guidance, dataset = settings.sampler.guidance, model.settings.dataset
    store = ImageStore.open_for(settings.data, dataset)
    images = store.images(guidance.split)
    if indices.start >= len(images):
        raise UserError(
            f"shard {indices.start // settings.shard_size}: begins at image {indices.start}, but "
            f"the {guidance.split} split of {settings.data} has {len(images)}; "
            "ask for no more samples than images"
        )
    indices = indices[: len(images) - indices.start]
    masks = masks_of(guidance.mask, indices, dataset.image_size, settings.mnist)
    read = (store.digest, masks_digest(guidance.mask, settings.mnist))
    if read != (origin.dataset_digest, origin.masks_digest):
        raise UserError(
            f"{settings.data}, or the masks: replaced while they were read; sample again"
        )
    known = torch.from_numpy(images[indices.start : indices.stop].copy()).to(device)
    return Inpainting(model.process, from_uint8(known), torch.from_numpy(masks)[:, None].to(device))
