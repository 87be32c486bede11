"""Micro-batches: the gradient of a batch in several passes, of as many images as memory takes."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from psld.diffusion.loss import Batch, LossOf
from psld.training.ranks import Ranks
from psld.utils.errors import RunError, is_out_of_memory


def accumulate_gradient(
    network: nn.Module, loss_of: LossOf, batch: Batch, micro_batch: int | None
) -> Tensor:
    """Add the gradient of the batch's mean loss, micro-batch by micro-batch; return the loss.

    Ranks exchange gradients once, with the last micro-batch.
    """
    total = torch.zeros((), device=batch.x0.device)
    parts = list(batch.split(micro_batch or len(batch.x0)))
    parallel = network if isinstance(network, DistributedDataParallel) else None
    for part in parts:
        with parallel.no_sync() if parallel and part is not parts[-1] else nullcontext():
            share = loss_of(network, part) * (len(part.x0) / len(batch.x0))
            share.backward()
        total += share.detach()
    return total


def largest_micro_batch(network: nn.Module, loss_of: LossOf, batch: Batch, ranks: Ranks) -> int:
    """Return the largest part of the batch whose gradient fits into the memory of every rank.

    It is found by trying, with half as many images after each failure on any rank.

    Args:
        network: without the exchange of gradients, because a rank that fails would leave the others
            waiting there.
        batch: the rank's part of a batch.

    Raises RunError if not even one image fits.
    """
    images = len(batch.x0)
    while ranks.largest(int(not _fits(network, loss_of, batch, images, 2 + (ranks.world > 1)))):
        torch.cuda.empty_cache()
        if images == 1:
            raise RunError("out of memory with one image at once; use a larger GPU")
        smaller = next(size for size in range(images // 2, 0, -1) if len(batch.x0) % size == 0)
        if ranks.leads:
            print(f"out of memory with {images} images at once; trying {smaller}", flush=True)
        images = smaller
    return images


def _fits(network: nn.Module, loss_of: LossOf, batch: Batch, images: int, later: int) -> bool:
    """Check if the gradient of so many images can be computed next to what later steps hold.

    `later`: its size over that of the parameters: two moments, and the exchange between ranks.
    """
    try:
        with left_as_it_was(network):
            held = [torch.empty_like(each) for each in network.parameters() for _ in range(later)]
            accumulate_gradient(network, loss_of, next(batch.split(images)), images)
            del held
        return True
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False


@contextmanager
def left_as_it_was(network: nn.Module) -> Iterator[None]:
    """Undo what a pass that trains nothing leaves in a network: gradients and new buffers."""
    before = [buffer.clone() for buffer in network.buffers()]
    try:
        yield
    finally:
        network.zero_grad(set_to_none=True)
        for buffer, value in zip(network.buffers(), before, strict=True):
            buffer.copy_(value)
