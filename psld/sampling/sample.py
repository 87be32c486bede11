"""Sampling the shards of a cell: one process makes many shards and loads the model once.

The noise of a shard is the same bytes on every machine, and a thread draws it ahead of time.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from psld.data.pixels import to_uint8
from psld.data.store import ImageStore
from psld.diffusion.denoiser import check_levels
from psld.diffusion.gaussian import GaussianStart
from psld.diffusion.loop import Inpainting, sample
from psld.diffusion.process import LinearProcess
from psld.diffusion.samplers import (
    ClassifierFreeGuidance,
    ClassifierGuidance,
    InpaintingGuidance,
    SamplerSettings,
)
from psld.diffusion.score import (
    Batching,
    ClassifierFreeScore,
    ClassifierGuidedScore,
    NetworkScore,
    Score,
)
from psld.diffusion.time_grid import level_range
from psld.networks.forward import enough_threads, forward_pass
from psld.sampling.inpainting import known_pixels, masks_digest
from psld.sampling.records import SampledShard, ShardRecord
from psld.sampling.settings import (
    CellSettings,
    SampleSettings,
    check_fit,
    classes_in_turn,
    sampler_content,
)
from psld.sampling.shards import Shard, ShardOrigin, load_made_by, shard_path
from psld.training.manifest import GuideManifest, ModelManifest, read_manifest
from psld.training.model import Guide, Model, load_guide, load_model
from psld.training.settings import ModelSettings
from psld.training.start import load_start, start_budget
from psld.utils.device import device_of, pinned, use_device
from psld.utils.errors import RunError, UserError
from psld.utils.files import digest_of
from psld.utils.provenance import device_name
from psld.utils.randomness import Prefetch, Stream, standard_normal, stream_seed


def origin_of(
    cell: CellSettings, model: ModelSettings, weights_sha256: str, guide_sha256: str | None
) -> ShardOrigin:
    """Return the origin of a cell's shard 0; those of other shards differ in the index alone."""
    guidance, process, start = cell.sampler.guidance, None, None
    if model.serves_every_process:
        process = (cell.process or model.process).model_dump(mode="json")
    if cell.sampler.starts_from_data:
        start = load_start(Path(cell.model), weights_sha256).sha256
    inpaints = isinstance(guidance, InpaintingGuidance)
    return ShardOrigin(
        weights_sha256=weights_sha256,
        sampler_digest=digest_of(sampler_content(cell.sampler)),
        process_digest=process and digest_of(process),
        start_sha256=start,
        seed=cell.seed,
        index=0,
        size=cell.shard_size,
        guide_sha256=guide_sha256,
        dataset_digest=ImageStore.open(cell.data).digest if inpaints else None,
        masks_digest=masks_digest(guidance.mask, cell.mnist) if inpaints else None,
    )


def sample_range(settings: SampleSettings) -> Path:
    """Make the shards of a range, PNGs or an .npz if asked for, and last the range's record.

    Print a line for each shard. Return the path of the record.
    """
    if settings.png:
        # Only pictures need Pillow.
        from psld.data.picture import is_single_picture, save_images

        model = read_manifest(settings.model, ModelManifest)
        guide = settings.guide and read_manifest(settings.guide, GuideManifest).weights_sha256
        origin = origin_of(settings, model.settings, model.weights_sha256, guide)
        source = digest_of(origin.model_dump())
        is_single_picture(settings.png, source)  # Refuses a wrong path before the work.
    records, images = [], []
    for shard, made in sample_shards(settings):
        index, count = shard.origin.index, len(shard.images)
        records.append(SampledShard(index=index, digest=shard.digest(), images=count))
        images += [shard.images] if settings.png or settings.npz else []
        done = f"{count} images, NFE {shard.nfe}" if made else "kept"
        print(f"shard {index}: {done}", flush=True)
    if settings.png:
        first = settings.first * settings.shard_size
        save_images(np.concatenate(images), settings.png, first, source)
        print(f"wrote {settings.png}")
    if settings.npz:
        from psld.data.images import write_npz

        write_npz(settings.npz, np.concatenate(images))
        print(f"wrote {settings.npz}")
    return ShardRecord(shards=tuple(records)).write(settings.output)


def sample_shards(settings: SampleSettings) -> Iterator[tuple[Shard, bool]]:
    """Yield each shard of the range, and True if it was made now, not found whole.

    Each shard is written when it is done, so a killed process loses at most one. Before a file is
    replaced, the reason is printed.
    """
    device = use_device(settings.device, tf32=True)
    model = load_model(settings.model, device, settings.process)
    network = forward_pass(
        model.network,
        settings.sampler.precision,
        compile=settings.compile,
        channels_last=settings.channels_last,
    )
    model = replace(model, network=network)
    guide = load_guide(settings.guide, device) if settings.guide else None
    check_fit(settings.sampler, model.settings, guide and guide.settings, model.class_names)
    shas = model.weights_sha256, guide and guide.weights_sha256
    expected = origin_of(settings, model.settings, *shas)
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
        inpainting = known_pixels(settings, model, origin, indices, device)
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
    silent: bool | None = None,
) -> tuple[Tensor, Tensor | None, int]:
    """Sample the images with these indices in a cell.

    Args:
        key: seed and shard of their noise.
        silent: show no progress bar; None shows it on a terminal.

    Returns:
        The images, N×C×H×W in about [−1, 1]; the class that each was guided to, if any; and the
        number of network evaluations per image.

    Raises:
        RunError: an image is not finite.
    """
    device, dataset = device_of(model.network), model.settings.dataset
    guidance, labels = sampler.guidance, None
    if isinstance(guidance, ClassifierGuidance | ClassifierFreeGuidance):
        classes = classes_in_turn(guidance.label, dataset, model.class_names)
        labels = torch.tensor([classes[i % len(classes)] for i in indices], device=device)
    sampler, start = resolve_start(sampler, model, labels, guide)
    network = model.eps()
    score: Score = NetworkScore(network, batching)
    match guidance:
        case ClassifierGuidance(scale=scale, official_time=official_time):
            logits = guide.logits(model.process)
            score = ClassifierGuidedScore(score, logits, labels, scale, batching, official_time)
        case ClassifierFreeGuidance(scale=scale):
            score = ClassifierFreeScore(network, labels, scale, batching)
    shape = (len(indices), dataset.channels, dataset.image_size, dataset.image_size)
    with enough_threads(model.network, min(len(indices), batching.size), dataset.image_size**2):
        x = draw_images(
            model.process, sampler, score, shape, key, device, inpainting, start, silent
        )
    return x, labels, score.evaluations


Start = Callable[[Tensor], Tensor]
"""From standard normal noise to states at the sampler's first time."""


def resolve_start(
    sampler: SamplerSettings,
    model: Model,
    labels: Tensor | None = None,
    guide: Guide | None = None,
) -> tuple[SamplerSettings, Start]:
    """Return the sampler with the level of its start, and the start itself.

    `labels`: the class of each image, if the samples have classes.

    Raises UserError if the model has no start in its folder, or if its denoiser or the guide was
    not trained for the noise levels.
    """
    process, start, level = model.process, model.process.prior, None
    levels = getattr(sampler, "levels", None)
    if sampler.starts_from_data:
        level = levels[0] if levels else sampler.start_level
        if level is None:
            _, highest = level_range(process, sampler.final_time)
            level = min(model.start.level(start_budget(sampler.steps)), highest)
        if not levels:
            sampler = sampler.model_copy(update={"start_level": level})
        data = model.start.data.to(device_of(model.network))
        gaussian = GaussianStart(process, data, level, sampler.final_time)
        start = partial(gaussian, labels=labels)
    for name, trained in ("denoiser", model), ("guide", guide):
        if trained and trained.settings.serves_every_process:
            law, last = trained.settings.training.noise_law, levels[-1] if levels else None
            check_levels(process, sampler.final_time, law.low, law.high, level, last, name)
    return sampler, start


class ShardNoise:
    """Standard normal noise for the states of one shard, one draw after the other.

        with ShardNoise(seed, shard, (1000, 6, 32, 32), device) as noise:
            start = process.prior(noise())

    The noise of shard j comes from (seed, j). It does not depend on the device, and the draws of a
    smaller shard are the first images of a larger one's.

    From the second draw on, a thread draws the next one while the network computes. A sampler that
    adds no noise takes the first alone, and no other is drawn.
    """

    def __init__(self, seed: int, shard: int, shape: tuple[int, ...], device: torch.device) -> None:
        """`shape`: that of all states of the shard, N×kC×H×W."""
        self.key = stream_seed(seed, Stream.SHARD, shard)
        self.shape = shape
        self.device = device
        self.draws = 0
        self._drawn = Prefetch(self._draw)

    def __call__(self, z: Tensor | None = None) -> Tensor:
        """Return the next draw, on the device. `z` is ignored: a shard's states have one shape."""
        drawn = self._drawn(self.draws, prefetch_next=self.draws > 0)
        self.draws += 1
        return drawn.to(self.device, non_blocking=True)

    def _draw(self, index: int) -> Tensor:
        return pinned(standard_normal(self.key, index, self.shape), self.device)

    def __enter__(self) -> "ShardNoise":
        return self

    def __exit__(self, *_: object) -> None:
        self._drawn.close()


def draw_images(
    process: LinearProcess,
    sampler: SamplerSettings,
    score: Score,
    shape: tuple[int, int, int, int],
    key: tuple[int, int],
    device: torch.device,
    inpainting: Inpainting | None = None,
    start: Start | None = None,
    silent: bool | None = None,
) -> Tensor:
    """Sample images of this shape, N×C×H×W, from the noise of a seed and a shard (`key`).

    They start as draws from the prior, unless `start` is given.

    Raises RunError if an image is not finite.
    """
    if start is None and sampler.starts_from_data:
        raise UserError(
            "sampler.start: the mean and covariance of the images are known for models in a folder "
            "(psld.load) alone; use start=prior, such as sampler=multistep"
        )
    n, channels, *size = shape
    with ShardNoise(*key, (n, process.blocks * channels, *size), device) as noise:
        z = (start or process.prior)(noise())
        z = sample(process, sampler, score, z, noise, inpainting, silent)
    if not torch.isfinite(z).all():
        raise RunError(f"shard {key[1]}: the sampler produced NaN or infinity")
    return z[:, :channels]
