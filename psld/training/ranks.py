"""The ranks of a training: processes that each compute a part of every batch."""

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from psld.utils.device import use_device
from psld.utils.environment import rank_of_environment

WAIT_TIMEOUT = timedelta(days=7)
"""The longest time that a rank waits for other ranks outside of training steps: at the start, in
previews and in checkpoints. At the start, rank 0 may wait for another training to end."""
EXCHANGE_TIMEOUT = timedelta(minutes=30)
"""The longest duration of an nccl exchange. The first exchange includes the compilation time."""


@dataclass(frozen=True)
class Ranks:
    """The rank of this process and its exchanges with the other ranks.

    Each method returns the same value on every rank. Numbers that control the training are
    exchanged as CPU tensors, so that no rank waits for its device.
    """

    rank: int
    world: int
    device: torch.device
    control: dist.ProcessGroup | None = None
    """The gloo group for the numbers that control the training.

    The gloo group is separate from the group of the gradients, because DistributedDataParallel
    never frees the group of the gradients. The threads of the gloo group can therefore end before
    the interpreter does. Otherwise, a gloo thread could release the last reference to a Python
    tensor during interpreter shutdown, which aborts the process even if its work is finished.
    """

    @property
    def leads(self) -> bool:
        """True on rank 0, which writes all files."""
        return self.rank == 0

    def parallel(self, network: nn.Module, unused: bool = False) -> nn.Module:
        """Wrap the network so that its gradients are averaged over the ranks.

        `unused`: True if some parameters get no gradient.
        """
        if self.world == 1:
            return network
        with warnings.catch_warnings():
            # Ignore the warning that torch 2.13 renames broadcast_buffers, because the old name
            # works in all supported versions.
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(
                network,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
                find_unused_parameters=unused,
            )

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over the ranks, on the CPU. This waits for the device."""
        values = values.cpu()
        if self.world > 1:
            dist.all_reduce(values, group=self.control)
        return values / self.world

    def largest(self, number: int) -> int:
        """Return the maximum over the ranks. This waits for all ranks, not for their devices."""
        numbers = torch.tensor(number)
        if self.world > 1:
            dist.all_reduce(numbers, dist.ReduceOp.MAX, self.control)
        return int(numbers)

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Broadcast the tensors of rank 0 to all ranks, in place."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def barrier(self) -> None:
        self.largest(0)

    def limit_exchanges(self) -> None:
        """Wait for all ranks, and then limit nccl exchanges to `EXCHANGE_TIMEOUT`.

        Exchanges over gloo keep `WAIT_TIMEOUT`, because gloo reports a dead rank at once.
        """
        self.barrier()
        if self.world > 1 and self.device.type == "cuda":
            world = cast("dist.ProcessGroup", dist.group.WORLD)
            world._get_backend(self.device)._set_default_timeout(EXCHANGE_TIMEOUT)


@contextmanager
def join_ranks(device: str) -> Iterator[Ranks]:
    """Join the process group of the launcher's environment, or run as the only rank.

    Several ranks exchange gradients through nccl on GPUs, and all other data through gloo. Ranks
    that succeed leave the process group together. A rank that fails does not leave the group: other
    ranks may wait in an exchange, and nccl would block the failed rank before it reports its error.
    """
    rank, world = rank_of_environment(), int(os.environ.get("WORLD_SIZE", 1))
    local_rank = int(os.environ["LOCAL_RANK"]) if world > 1 else None
    chosen = use_device(device, rank=local_rank, tf32=True)
    if world == 1:
        yield Ranks(rank, world, chosen)
        return
    on_gpu = chosen.type == "cuda"
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        timeout=WAIT_TIMEOUT,
        device_id=chosen if on_gpu else None,
    )
    control = cast("dist.ProcessGroup", dist.new_group(backend="gloo", timeout=WAIT_TIMEOUT))
    ranks = Ranks(rank, world, chosen, control)
    yield ranks
    ranks.barrier()
    dist.destroy_process_group()
