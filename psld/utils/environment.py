"""The rank of a process in a job, and the git revision of the code. Does not import torch."""

import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from psld.utils.errors import UserError

if TYPE_CHECKING:
    from submitit import JobEnvironment

TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
PORTS = range(20_000, 32_000)
"""Ports at which ranks may connect. These ports are below the ports of outgoing connections, which
may be in use at any time."""


def rank_of_environment() -> int:
    """Return the rank of this process from the environment variables of torchrun (RANK, …).

    Returns 0 if the variables are not set. In a job of submitit, this function sets the variables
    first. Raises UserError if only some of the variables are set.
    """
    if "SUBMITIT_EXECUTOR" in os.environ:
        # Import submitit only in its jobs, because the import is slow.
        from submitit import JobEnvironment
        from submitit.helpers import TorchDistributedEnvironment

        os.environ["MASTER_PORT"] = str(meeting_port(JobEnvironment()))
        # LOCAL_RANK chooses the GPU. CUDA_VISIBLE_DEVICES stays as the scheduler set it.
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    place = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if place != ("0", "1") and (missing := [name for name in TORCHRUN if name not in os.environ]):
        raise UserError(
            f"RANK={place[0]}, WORLD_SIZE={place[1]}: set in this shell, but {missing[0]} is not; "
            "unset RANK WORLD_SIZE, or start the ranks with psld launch"
        )
    return int(place[0])


def meeting_port(job: "JobEnvironment") -> int:
    """Return the port at which the ranks of a job connect.

    The port differs between jobs, and between restarts of the same job.
    """
    lives = int(os.environ.get("SLURM_RESTART_COUNT", 0))
    return PORTS[(int(job.raw_job_id) + 101 * lives) % len(PORTS)]


CHECKOUT = Path(__file__).parents[2]
"""The top-level folder of a checkout. For an installed package, this path has no meaning."""


def git_revision() -> str | None:
    """Return the git revision of the code, with a `+` if files have changed since.

    Returns None outside a checkout.
    """
    if not (CHECKOUT / ".git").exists():
        return None  # git would find any repository around an installed package.
    command = ["git", "-C", str(CHECKOUT), "describe", "--always", "--abbrev=12", "--dirty=+"]
    with suppress(OSError):  # git is not installed.
        described = subprocess.run(command, capture_output=True, text=True, check=False)
        return described.stdout.strip() or None
    return None
