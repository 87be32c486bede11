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
"""Below those that a machine gives to outgoing connections, which come and go."""


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
        with warnings.catch_warnings():
            # torch 2.13 renames broadcast_buffers; the older name works in all versions allowed.
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(network, broadcast_buffers=False)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the ranks, on every rank."""
        if self.world > 1:
            dist.all_reduce(values)
            values = values / self.world
        return values

    def largest(self, number: int) -> int:
        """The largest of the ranks' numbers; the same answer on every rank. Waits for all."""
        if self.world == 1:
            return number
        numbers = torch.tensor(number, device=self.device)
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
        return int(numbers)

    def of_leader(self, number: int) -> int:
        """The leading rank's number, on every rank."""
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
    """Meet the other ranks that submitit or torchrun (RANK, WORLD_SIZE, …) started.

    Without either this process is the only rank. Several ranks talk through nccl on GPUs and
    through gloo elsewhere.

    A rank that fails leaves without a farewell: others may sit in an exchange with it, for which
    nccl would wait before it let the rank report its error and die.
    """
    if "SUBMITIT_EXECUTOR" in os.environ:
        # Only jobs of submitit pay for its import.
        from submitit import JobEnvironment
        from submitit.helpers import TorchDistributedEnvironment

        os.environ["MASTER_PORT"] = str(meeting_port(JobEnvironment()))
        # LOCAL_RANK chooses the GPU; what the scheduler shows of them stays as it is.
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", 0)))
    if world > 1:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    yield Ranks(rank, world, chosen)
    if world > 1:
        dist.destroy_process_group()


def meeting_port(job: "JobEnvironment") -> int:
    """Where the ranks of a job meet. Neighbouring jobs, and a job's lives, have different ports."""
    lives = int(os.environ.get("SLURM_RESTART_COUNT", 0))
    return PORTS[(int(job.raw_job_id) + 101 * lives) % len(PORTS)]
