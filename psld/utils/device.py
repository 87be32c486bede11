"""The device of a command, its numerical settings, and the provenance of a result."""

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import torch
from torch import Tensor, backends, nn

from psld.utils import VERSION
from psld.utils.environment import git_revision
from psld.utils.errors import UserError
from psld.utils.locks import release_gpus, take_gpus

PEAK_TFLOPS = {
    "A100": (312, 156),
    "H100 PCIe": (756, 378),
    "H100 NVL": (835, 417),
    "H100": (989, 494),
    "H200": (989, 494),
    "B200": (2250, 1125),
    "L40S": (362, 183),
}
"""Dense TFLOP/s in bf16 and in TF32, from NVIDIA's data sheets. A key is a part of the name of a
GPU."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt."""

CORES_OF_A_GPU = 3
"""The number of CPU cores that keep a GPU busy. One core launches kernels, and the other cores draw
noise."""


def device_of(network: nn.Module) -> torch.device:
    """Return the device of a network's parameters.

    For a network without parameters, return the default device of torch.
    """
    return next(network.parameters(), torch.empty(0)).device


def choose_device(name: str, index: int = 0) -> torch.device:
    """Return the device with this name.

    `auto` means the GPU with this index, or the CPU if torch sees no GPU. `cuda` means the GPU with
    this index. If Slurm makes only one GPU visible to each task, both mean this GPU.

    Raises UserError for an unknown name or a missing GPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"device: no such device {name!r}; use auto, cpu or cuda")
    if device.type == "cpu":
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
    """Return the device for this process, and configure its numerical settings.

    Args:
        name: `auto` and `cuda` mean the GPU of this rank. If `rank` is None, they mean a GPU that
            no other psld process has locked; the function waits until a GPU is free. A GPU with a
            number (`cuda:1`) is used without a lock.
        rank: the rank of this process on its node.
        tf32: use TF32 (10 bits of mantissa) for convolutions, linear layers and attention in fp32.
            Training and sampling use TF32; metrics use full fp32.
    """
    device = choose_device(name, rank or 0)
    if device.type != "cuda":
        if tf32:
            _keep_memory()
        return device
    if rank is None and ":" not in name:
        gpus = range(torch.cuda.device_count())
        uuids = [f"GPU-{torch.cuda.get_device_properties(gpu).uuid}" for gpu in gpus]
        device = torch.device("cuda", *take_gpus(uuids))
    torch.cuda.set_device(device)
    torch.backends.cudnn.benchmark = True
    use_tf32(tf32, tf32)
    if tf32 and (found := cores()) < CORES_OF_A_GPU and not rank:
        remedy = f"may be slow; give each rank at least {CORES_OF_A_GPU} cores (cpus_per_task)"
        print(f"only {found} CPU core(s) to draw noise for a GPU: {remedy}", flush=True)
    return device


def _keep_memory() -> None:
    """Let the C library keep memory that a training step frees for the next step.

    Otherwise, the kernel reclaims and clears these pages, which takes 10 to 20 % of the time of a
    training step.
    """
    with suppress(OSError, AttributeError):  # The C library is not glibc.
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the largest allowed value


def give_back(device: torch.device) -> None:
    """Release the lock of the GPU, and free its unused memory for other processes."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        release_gpus()


def cores() -> int:
    """Return the number of CPU cores that this process may use. Ranks share the cores equally."""
    usable = len(os.sched_getaffinity(0))
    if given := os.environ.get("SLURM_CPUS_PER_TASK"):  # Slurm may not bind a task to its cores.
        return min(usable, int(given))
    return max(1, usable // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the tensor in pinned memory, so that a copy to a GPU does not block this process."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Return the peak FLOP/s of a GPU.

    The precision fp32 means TF32. Returns None for a CPU and for a GPU with an unknown peak.
    """
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    known = [peaks for part, peaks in PEAK_TFLOPS.items() if part in name]
    return 1e12 * known[0][precision == "fp32"] if known else None


HAS_NEW_SWITCHES = hasattr(backends, "fp32_precision")
"""Since torch 2.9, there are old switches (`allow_tf32`) and new switches. After any code in the
process has set a new switch, reading an old switch raises an error."""


def tf32_in_use() -> tuple[bool, bool]:
    """Return whether convolutions and matrix products currently use TF32."""
    matmul, cudnn = cast(Any, backends.cuda.matmul), cast(Any, backends.cudnn)
    if HAS_NEW_SWITCHES:
        return cudnn.conv.fp32_precision == "tf32", matmul.fp32_precision == "tf32"
    return cudnn.allow_tf32, matmul.allow_tf32


def use_tf32(convolutions: bool, matmul: bool) -> None:
    """Set whether convolutions and matrix products use TF32 or full fp32."""
    # Set both old and new switches. The old switches alone do not override
    # `torch.backends.fp32_precision`. If only the new switches were set, libraries that read the
    # old switches would fail.
    backends.cudnn.allow_tf32 = convolutions
    backends.cuda.matmul.allow_tf32 = matmul
    if HAS_NEW_SWITCHES:
        names = {True: "tf32", False: "ieee"}
        for unit in ("conv", "rnn"):
            getattr(backends.cudnn, unit).fp32_precision = names[convolutions]
        backends.cuda.matmul.fp32_precision = names[matmul]


@contextmanager
def all_bits() -> Iterator[None]:
    """Use full fp32 instead of TF32 in this context."""
    before = tf32_in_use()
    use_tf32(False, False)
    try:
        yield
    finally:
        use_tf32(*before)


@contextmanager
def float32_by_default() -> Iterator[None]:
    """Make float32 the default dtype in this context."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def provenance() -> dict[str, Any]:
    """Return the versions, precision flags and git revision that every result file records."""
    cudnn, (convolutions, matmul) = torch.backends.cudnn.version(), tf32_in_use()
    return {
        "versions": {
            "psld": VERSION,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "cudnn": cudnn and str(cudnn),
        },
        "precision": {
            "tf32_matmul": matmul,
            "tf32_convolutions": convolutions,
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
        },
        "git_revision": git_revision(),
    }


def device_name(device: torch.device) -> str:
    """Return the name of the GPU, or a description of the CPU with its ranks and threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    ranks, threads = int(os.environ.get("WORLD_SIZE", 1)), torch.get_num_threads()
    each = f"{threads} thread{'s' * (threads > 1)}"
    parts = f"{ranks} ranks, {each} each" if ranks > 1 else f"{each} of {os.cpu_count()}"
    return f"CPU ({platform.machine()}, {parts})"
