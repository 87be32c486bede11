"""Sample the shards of a cell. A process loads the model once and then samples many shards.

The noise of a shard is bit-identical on every machine. Threads draw the noise ahead of time.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import shorten
from typing import cast

import numpy as np
import torch

from psld.config.parts import imported
from psld.data.pictures import pictures_of
from psld.data.store import ImageStore, Split
from psld.diffusion.guidance import Mask
from psld.diffusion.integrators import Inpainting
from psld.sampling.model import ImageSampler, LoadedModel, cell_sampler, load_guide, load_model
from psld.sampling.settings import (
    CellSettings,
    SampledShard,
    SampleSettings,
    ShardRecord,
    gaussians,
)
from psld.sampling.shards import (
    OtherOriginError,
    Shard,
    ShardOrigin,
    load_made_by,
    origin_of,
    shard_path,
)
from psld.utils.device import device_name, use_device
from psld.utils.errors import UserError
from psld.utils.files import check_place, digest_of
from psld.utils.numbers import Size


def sample_range(settings: SampleSettings) -> Path:
    """Sample the shards of a range, write their record, and return the path of the record.

    Pictures or an .npz are written before the record if requested. A line is printed for each
    shard.
    """
    settings = settings.model_copy(update={"sampler": imported(settings.sampler)})
    model, sampler, origin = load_cell(settings)
    source, as_pictures = digest_of(origin.model_dump()), np.asarray
    if settings.png:
        from psld.data.images import is_single_picture  # Only pictures need Pillow.

        # A wrong path or decoder is an error before sampling.
        is_single_picture(settings.png, source)
        given = model.settings.dataset, model.units, model.device, model.folder
        as_pictures = pictures_of(*given)
    if settings.npz:
        check_place(settings.npz)
    if start := sampler.gaussian:
        law = gaussians(start.data.components(sampler.classes))
        evaluated = sampler.settings.evaluations
        level = f"at σ₀ = {start.sigma:.3g}" if evaluated else "without a network"
        print(f"starts from {law} of the training images, {level}", flush=True)
    if classes := dict.fromkeys(sampler.classes):
        named = ", ".join(" ".join((f"{i}", *model.class_names[i : i + 1])) for i in classes)
        print(f"classes: {shorten(named, 1000, placeholder=' …')}", flush=True)
    records, images = [], []
    for shard, made in sample_shards(settings, model, sampler, origin):
        index, count = shard.origin.index, len(shard.images)
        records.append(SampledShard(index=index, digest=shard.digest(), images=count))
        images += [shard.images] if settings.png or settings.npz else []
        done = f"{count} images, NFE {shard.nfe}" if made else "kept"
        print(f"shard {index}: {done}", flush=True)
    if images:
        from psld.data.images import save_images, write_npz

        whole = np.concatenate(images)
        if settings.png:
            first = settings.first * settings.shard_size
            save_images(as_pictures(whole), settings.png, first, source)
        if settings.npz:
            write_npz(settings.npz, whole)
        print("\n".join(f"wrote {path}" for path in (settings.png, settings.npz) if path))
    return ShardRecord(shards=tuple(records)).write(settings.output)


def load_cell(settings: SampleSettings) -> tuple[LoadedModel, ImageSampler, ShardOrigin]:
    """Return the model and the sampler of a cell, and the origin of its shard 0."""
    device = use_device(settings.device, tf32=True)
    model = load_model(settings.model, device, settings.process, settings.start, settings.trust)
    guide = load_guide(settings.guide, device, settings.trust) if settings.guide else None
    sampler = cell_sampler(
        model, guide, settings.sampler, settings.batch_size, compile=settings.compile
    )
    return model, sampler, origin_of(settings, model, guide, sampler.start_sha256)


def sample_shards(
    settings: SampleSettings, model: LoadedModel, sampler: ImageSampler, expected: ShardOrigin
) -> Iterator[tuple[Shard, bool]]:
    """Yield each shard of the range with True if it was sampled, and False if its file was valid.

    Each shard is written as soon as it is sampled, so a killed process loses at most one shard. If
    a file is replaced, the reason is printed.

    Raises UserError for a shard of another origin, unless `output` is the folder of a grid's cell.
    """
    for index in range(settings.first, settings.first + settings.shards):
        file, origin = shard_path(settings.output, index), expected.at(index)
        try:
            yield load_made_by(file, origin), False
        except UserError as error:
            if isinstance(error, OtherOriginError) and settings.output != settings.folder:
                other = "to another output, or delete this folder"
                raise UserError(f"{error}, {other}") from None
            if file.exists():
                print(f"not kept: {error}", flush=True)
            shard = sample_shard(settings, model, sampler, origin)
            shard.save(file)
            yield shard, True


def sample_shard(
    cell: CellSettings, model: LoadedModel, sampler: ImageSampler, origin: ShardOrigin
) -> Shard:
    """Sample the images of one shard."""
    started = time.monotonic()
    indices = range(origin.index * origin.size, (origin.index + 1) * origin.size)
    inpainting = None
    if cell.sampler.guidance.holes:
        inpainting = known_pixels(cell, model, origin, indices)
        indices = indices[: len(inpainting.images)]  # The last shard of a split may be smaller.
    x, labels, nfe = sampler.sample(indices, (cell.seed, origin.index), inpainting)
    return Shard(
        images=sampler.units.stored(x).cpu().numpy(),
        origin=origin,
        nfe=nfe,
        seconds=time.monotonic() - started,
        device=device_name(sampler.device),
        labels=None if labels is None else labels.cpu().numpy(),
        masks=None if inpainting is None else inpainting.mask[:, 0].byte().cpu().numpy(),
    )


def draw_masks(mask: Mask, indices: range, image_size: Size, mnist: str | None) -> np.ndarray:
    """Return masks for the images at these indices, uint8 N×H×W: 1 at known pixels, 0 elsewhere.

    `mnist`: the path of the prepared MNIST dataset, for masks in the shape of digits.
    """
    return np.asarray(mask.draw(indices, image_size, mnist)).astype(np.uint8)


def known_pixels(
    cell: CellSettings, model: LoadedModel, origin: ShardOrigin, indices: range
) -> Inpainting:
    """Return the images and the masks at these indices, up to the end of the split.

    Raises UserError if all indices are beyond the split, or if the files differ from the origin.
    """
    dataset = model.settings.dataset
    split, mask = cast(tuple[Split, Mask], cell.sampler.guidance.holes)
    store = ImageStore.open_for(cast(str, cell.data), dataset)
    images = store.images(split)
    if indices.start >= len(images):
        raise UserError(
            f"shard {indices.start // cell.shard_size}: starts at image {indices.start}, but "
            f"the {split} split of {cell.data} has {len(images)} images; request fewer samples"
        )
    indices = indices[: len(images) - indices.start]
    drawn = torch.from_numpy(draw_masks(mask, indices, dataset.image_size, cell.mnist))
    read = (store.digest, cell.mnist and ImageStore.open(cell.mnist).digest)
    if read != (origin.dataset_digest, origin.masks_digest):
        raise UserError(f"{cell.data}: the images or the masks have changed; sample again")
    known = torch.from_numpy(images[indices.start : indices.stop].copy()).to(model.device)
    return Inpainting(model.process, store.units.seen(known), drawn[:, None].to(model.device))
