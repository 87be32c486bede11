"""The device that a command computes on, and how it computes."""

import os

import torch
from torch import Tensor, nn

from psld.utils.errors import UserError
from psld.utils.gpus import take_gpus
from psld.utils.tf32 import use_tf32

PEAK_TFLOPS = {
    "A100": (312, 156),
    "H100 PCIe": (756, 378),
    "H100 NVL": (835, 417),
    "H100": (989, 494),
    "H200": (989, 494),
    "B200": (2250, 1125),
    "L40S": (362, 183),
}
"""Dense TFLOP/s of GPUs in bf16 and in TF32, by a part of the name; from NVIDIA's data sheets."""


def device_of(network: nn.Module) -> torch.device:
    """Return the device of a network's parameters; torch's default device if it has none."""
    return next(network.parameters(), torch.empty(0)).device


def choose_device(name: str, index: int = 0) -> torch.device:
    """Return the device `name`; `auto` is the GPU with this index if there is one, else the CPU.

    If a Slurm job makes only one GPU visible to each task, it is that one.

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
        alone = "SLURM_JOB_ID" in os.environ and count == 1
        device = torch.device("cuda", 0 if alone else index)
    if device.index >= count:
        raise UserError(f"device: no {device}; torch sees {count} GPUs here")
    return device


def use_device(name: str, *, rank: int | None = None, tf32: bool = False) -> torch.device:
    """Return the device that this process computes on until it ends, and set how it computes.

    Args:
        name: `auto` and `cuda` are the GPU of this rank. Without ranks, they are a GPU that no
            other process has taken this way; if there is none, this waits. A GPU with a number
            (`cuda:1`) is used in any case.
        rank: the number of this rank on its node.
        tf32: convolutions, linear layers and attention in fp32 multiply with TF32's ten bits. For
            networks that train or sample; metrics use all bits.
    """
    device = choose_device(name, rank or 0)
    if device.type != "cuda":
        return device
    if rank is None and ":" not in name:
        gpus = range(torch.cuda.device_count())
        uuids = [f"GPU-{torch.cuda.get_device_properties(gpu).uuid}" for gpu in gpus]
        device = torch.device("cuda", *take_gpus(uuids))
    torch.cuda.set_device(device)
    torch.backends.cudnn.benchmark = True
    use_tf32(tf32, tf32)
    return device


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the tensor in pinned memory, so that a copy to a GPU does not block this process."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Return the peak FLOP/s of a GPU, in bf16 or TF32 (fp32); None if unknown, and for a CPU."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    known = [peaks for part, peaks in PEAK_TFLOPS.items() if part in name]
    return 1e12 * known[0][precision == "fp32"] if known else None
