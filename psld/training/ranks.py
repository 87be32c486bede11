"""The ranks of one training: processes that each compute a part of every batch."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from psld.errors import UserError


@dataclass(frozen=True)
class Ranks:
    """This process's place among the ranks."""

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this rank writes the files."""
        return self.rank == 0

    def parallel(self, network: nn.Module) -> nn.Module:
        """The network with its gradients averaged over the ranks."""
        if self.world == 1:
            return network
        return DistributedDataParallel(network, broadcast_buffers=False)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the ranks, on every rank."""
        if self.world > 1:
            dist.all_reduce(values)
            values = values / self.world
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank; the same answer on every rank. Waits for all."""
        if self.world == 1:
            return flag
        flags = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags)

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier()


@contextmanager
def join_ranks(device: str) -> Iterator[Ranks]:
    """Meet the other ranks that the launcher started (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR).

    Without these variables this process is the only rank. Several ranks talk through nccl on GPUs
    and through gloo elsewhere.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", 0)))
    if world > 1:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Ranks(rank, world, chosen)
    finally:
        if world > 1:
            dist.destroy_process_group()


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """`auto` is this rank's GPU where there is one and the CPU elsewhere.

    Raises UserError for a name that torch does not know or a GPU that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device: no such device {name!r}; use auto, cpu or cuda") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(f"device: {name} was asked for, but torch sees no GPU here; use auto")
        device = torch.device("cuda", local_rank if device.index is None else device.index)
        torch.cuda.set_device(device)
    return device
