"""The device that a command computes on."""

import os

import torch

from psld.utils.errors import UserError


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """Return the device `name`; `auto` is this rank's GPU if there is one, else the CPU.

    A rank's GPU has the rank's number on its node. If Slurm's --gpus-per-task makes only one GPU
    visible, it is that one.

    Raises UserError for an unknown name or a missing GPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device: no such device {name!r}; use auto, cpu or cuda") from None
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        raise UserError(f"device: {name} was requested, but torch sees no GPU here; use auto")
    count = torch.cuda.device_count()
    if device.index is None:
        alone = "SLURM_GPUS_PER_TASK" in os.environ and count == 1
        device = torch.device("cuda", 0 if alone else local_rank)
    if device.index >= count:
        raise UserError(f"device: no {device}; torch sees {count} GPUs here")
    torch.cuda.set_device(device)
    return device
