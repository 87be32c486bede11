"""The ranks of one training: processes that each compute a part of every batch."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from psld.utils.device import choose_device

if TYPE_CHECKING:
    from submitit import JobEnvironment

PORTS = range(20_000, 32_000)
"""Below the ports of outgoing connections, which may be taken at any time."""


@dataclass(frozen=True)
class Ranks:
    """This process's place among the ranks. Each method returns the same on every rank."""

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """True on the rank that writes the files."""
        return self.rank == 0

    def parallel(self, network: nn.Module) -> nn.Module:
        """The network with its gradients averaged over the ranks."""
        if self.world == 1:
            return network
        with warnings.catch_warnings():
            # torch 2.13 renames broadcast_buffers; the old name works in all supported versions.
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(network, broadcast_buffers=False)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the ranks."""
        if self.world > 1:
            dist.all_reduce(values)
            values = values / self.world
        return values

    def largest(self, number: int) -> int:
        """The largest of the ranks' numbers. Waits for all ranks."""
        if self.world == 1:
            return number
        numbers = torch.tensor(number, device=self.device)
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
        return int(numbers)

    def of_leader(self, number: int) -> int:
        """The leading rank's number."""
        if self.world == 1:
            return number
        numbers = torch.tensor(number, device=self.device)
        dist.broadcast(numbers, src=0)
        return int(numbers)

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier()


@contextmanager
def join_ranks(device: str) -> Iterator[Ranks]:
    """Join the ranks that submitit or torchrun (RANK, WORLD_SIZE, …) started, or be the only one.

    Several ranks communicate through nccl on GPUs and through gloo elsewhere. A rank that fails
    does not leave the process group: other ranks may wait for it in an exchange, and nccl would
    then block this rank before it reports its error.
    """
    if "SUBMITIT_EXECUTOR" in os.environ:
        # Only jobs of submitit pay for its import.
        from submitit import JobEnvironment
        from submitit.helpers import TorchDistributedEnvironment

        os.environ["MASTER_PORT"] = str(meeting_port(JobEnvironment()))
        # LOCAL_RANK chooses the GPU. CUDA_VISIBLE_DEVICES stays as the scheduler set it.
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", 0)))
    if world > 1:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    yield Ranks(rank, world, chosen)
    if world > 1:
        dist.destroy_process_group()


def meeting_port(job: "JobEnvironment") -> int:
    """The ranks' port. Neighboring jobs, and the lives of one job, have different ports."""
    lives = int(os.environ.get("SLURM_RESTART_COUNT", 0))
    return PORTS[(int(job.raw_job_id) + 101 * lives) % len(PORTS)]
