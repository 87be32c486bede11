"""Faults of a machine: of a GPU, or of the exchange between ranks. A second try may succeed."""

import os
import sys
import traceback

SIGNS = (
    "uncorrectable ECC error",
    "uncorrectable NVLink error",
    "unspecified launch failure",
    "NCCL error",
    "gloo",
)
"""Parts of torch's messages about such faults."""
TRIED = "PSLD_TRIED_ONCE"
"""The variable that marks the second try of a command."""


def is_transient(error: BaseException) -> bool:
    """Recognize a fault of the machine. Running out of memory is none: it would happen again."""
    # By name: this module imports no torch.
    kinds = {kind.__name__ for kind in type(error).__mro__}
    message = str(error).lower()
    said = any(sign.lower() in message for sign in SIGNS)
    return "DistError" in kinds or ("RuntimeError" in kinds and said)


def try_again_once(error: BaseException) -> None:
    """Replace this process by a second try of its command, if a fault of the machine ended it.

    CUDA cannot be used again in a process after such a fault. Return if it was no such fault, if
    this is the second try, or if this process is one of several ranks or a job of submitit: their
    launcher decides.
    """
    alone = "SUBMITIT_EXECUTOR" not in os.environ and os.environ.get("WORLD_SIZE", "1") == "1"
    if not alone or TRIED in os.environ or not is_transient(error):
        return
    traceback.print_exception(error)
    print("this may be a fault of the machine; trying once more", file=sys.stderr, flush=True)
    sys.stdout.flush()
    command = [sys.executable, *sys.orig_argv[1:]]
    os.execve(sys.executable, command, os.environ | {TRIED: "1"})
