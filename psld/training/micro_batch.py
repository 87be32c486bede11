"""The images that a forward pass of a training takes, if its settings leave that to the memory."""

from collections.abc import Callable

from psld.training.batches import RESIDENT_BYTES
from psld.training.memory import training_memory
from psld.training.ranks import Ranks
from psld.training.settings import TrainedSettings
from psld.utils.device import available_memory

USABLE = 0.9
"""The share of the memory for tensors. The rest is for CUDA's context with its
kernels, for workspaces of convolutions, and for fragments; cards and versions differ."""


def largest_that_fits(images: int, taken: Callable[[int], int], usable: float) -> int:
    """Return the largest part of so many images that takes at most `usable` bytes, or else 1."""
    while images > 1 and taken(images) > usable:
        images = next(size for size in range(images // 2, 0, -1) if images % size == 0)
    return images


def largest_micro_batch(
    settings: TrainedSettings, ranks: Ranks, kept: int | None, dataset: int
) -> int:
    """Return the largest part of a rank's batch that fits into the memory of every rank.

    Args:
        kept: what the training had before it was stopped. It has it again, so that dropout and
            rounding stay the same; on a smaller device, it has a part of that.
        dataset: bytes of the training images.
    """
    part = settings.training.batch_size // ranks.world
    largest = min(kept or part, part)
    usable = USABLE * available_memory(ranks.device)
    if ranks.device.type == "cpu":
        usable /= ranks.world
    usable -= dataset if dataset <= RESIDENT_BYTES else 0
    images = largest_that_fits(
        largest, lambda size: training_memory(settings, size, ranks.world), usable
    )
    images = -ranks.largest(-images)
    if ranks.leads and (kept or images < part):
        reason = ""
        if images < largest:
            reason = f"; {largest} need more memory"
        elif images < part:
            reason = ", as before it was stopped; training.micro_batch=N sets another"
        print(f"training.micro_batch: {images} of {part} images at once{reason}", flush=True)
    return images
