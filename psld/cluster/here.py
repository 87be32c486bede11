"""A training on this machine: one process, or one for each rank."""

import os
import subprocess
import sys
from typing import NoReturn

from psld.cluster.settings import LaunchSettings
from psld.cluster.slurm import clean_environment
from psld.utils.errors import UserError


def run_here(settings: LaunchSettings) -> NoReturn:
    """Become the training, or torchrun with a training process for each rank.

    On the GPUs and with the threads that are given here.
    """
    if settings.nodes > 1:
        raise UserError(
            f"launch: nodes={settings.nodes} needs Slurm; on this machine use nodes=1 "
            "with ranks_per_node"
        )
    ranks = settings.ranks_per_node or gpus_here() or 1
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"]
    command = [*(torchrun if ranks > 1 else ()), "psld", *settings.command]
    sys.stdout.flush()
    with clean_environment():
        os.execv(sys.executable, [sys.executable, "-m", *command])


def gpus_here() -> int:
    """The GPUs that a process started here sees, without the second that torch takes to import."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip()])
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
    except FileNotFoundError:
        return 0
    return len(listed.stdout.splitlines()) if listed.returncode == 0 else 0
