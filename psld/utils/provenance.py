"""The origin of a result: versions, git revision, device."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from psld.utils import VERSION
from psld.utils.tf32 import tf32_in_use

CHECKOUT = Path(__file__).parents[2]
"""The top folder of a checkout. For an installed package it is no such folder."""


def provenance() -> dict[str, Any]:
    """Return versions, precision flags and git revision, for every file that holds a result."""
    cudnn, tf32 = torch.backends.cudnn.version(), tf32_in_use()
    return {
        "versions": {
            "psld": VERSION,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "cudnn": cudnn and str(cudnn),
        },
        "precision": {
            "tf32_matmul": tf32.matmul,
            "tf32_convolutions": tf32.convolutions,
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
        },
        "git_revision": _git_revision(),
    }


def device_name(device: torch.device) -> str:
    """Return the GPU's name, or the CPU with its number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads of {os.cpu_count()})"


def _git_revision() -> str | None:
    """Return the revision of the code, with `+` if files differ; None outside a checkout."""
    if not (CHECKOUT / ".git").exists():
        return None  # git would find the repository that an installed package's folder lies in
    command = ["git", "-C", str(CHECKOUT), "describe", "--always", "--abbrev=12", "--dirty=+"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()
