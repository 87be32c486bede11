"""Sampling the shards of a cell: one process makes many, and loads the model once."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from psld.data.pixels import to_uint8
from psld.diffusion.loop import sample
from psld.diffusion.score import Batching
from psld.networks.forward import forward_pass
from psld.sampling.fit import check_fit
from psld.sampling.guidance import guidance_of
from psld.sampling.noise import ShardNoise
from psld.sampling.origin import origin_of
from psld.sampling.settings import SampleSettings
from psld.sampling.shards import Shard, ShardOrigin, load_made_by, shard_path
from psld.training.model import Guide, Model, load_guide, load_model
from psld.utils.device import choose_device
from psld.utils.errors import RunError, UserError
from psld.utils.provenance import device_name


def sample_shards(settings: SampleSettings) -> Iterator[tuple[Shard, bool]]:
    """Yield each shard of the range, and if it was made now: whole ones are kept as they are.

    Each shard is written when it is done, so a killed process loses at most one.
    """
    device = choose_device(settings.device)
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
    expected, batching = origin_of(settings), Batching(settings.batch_size)
    for index in range(settings.first, settings.first + settings.shards):
        path, origin = shard_path(settings.output, index), replace(expected, index=index)
        kept = _whole(path, origin)
        if kept is not None:
            yield kept, False
            continue
        shard = sample_shard(settings, model, guide, origin, device, batching)
        shard.save(path)
        yield shard, True


def _whole(path: Path, origin: ShardOrigin) -> Shard | None:
    try:
        return load_made_by(path, origin)
    except UserError:
        return None


def sample_shard(
    settings: SampleSettings,
    model: Model,
    guide: Guide | None,
    origin: ShardOrigin,
    device: torch.device,
    batching: Batching | None = None,
) -> Shard:
    """Sample all images of one shard.

    The shard's noise comes from (seed, shard) and is drawn for the whole shard at each step, so an
    image depends neither on the batch size nor on which worker computes its shard, nor, up to
    rounding, on the device.

    Args:
        model: with its network as it is to be called (`forward_pass`).
        batching: the batches found to fit by earlier shards; else of `settings.batch_size`.
    """
    started = time.monotonic()
    dataset = model.settings.dataset
    channels = dataset.channels
    batching = batching or Batching(settings.batch_size)
    guidance = guidance_of(settings, model, guide, origin.index, device, batching)
    shape = (
        guidance.size,
        model.process.blocks * channels,
        dataset.image_size,
        dataset.image_size,
    )
    score, inpainting = guidance.score, guidance.inpainting
    with ShardNoise(settings.seed, origin.index, shape, device) as noise:
        start = model.process.prior(noise())
        z = sample(model.process, settings.sampler, score, start, noise, inpainting)
    if not torch.isfinite(z).all():
        raise RunError(f"shard {origin.index}: the sampler produced NaN or infinity")
    return Shard(
        images=to_uint8(z[:, :channels]).cpu().numpy(),
        origin=origin,
        nfe=score.evaluations,
        seconds=time.monotonic() - started,
        device=device_name(device),
        labels=None if guidance.labels is None else guidance.labels.cpu().numpy(),
        masks=None if inpainting is None else inpainting.mask[:, 0].byte().cpu().numpy(),
    )
