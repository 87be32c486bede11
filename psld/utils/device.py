"""The device that a command computes on."""

import os

import torch

from psld.utils.errors import UserError


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """`auto` is this rank's GPU where there is one and the CPU elsewhere.

    A rank's GPU is the one of its number on its node, or, where Slurm's --gpus-per-task shows it
    no other, the one that it sees.

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
        alone = "SLURM_GPUS_PER_TASK" in os.environ and torch.cuda.device_count() == 1
        own = 0 if alone else local_rank
        device = torch.device("cuda", own if device.index is None else device.index)
        if device.index >= torch.cuda.device_count():
            raise UserError(
                f"device: no {device}; torch sees {torch.cuda.device_count()} GPUs here"
            )
        torch.cuda.set_device(device)
    return device
