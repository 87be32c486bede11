"""The errors that are reported in one line, and the text of that line."""

import re

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from psld.utils.errors import PSLDError
from psld.utils.files import DISK_ERRORS

WRONG_PATHS = PermissionError | FileExistsError | NotADirectoryError | IsADirectoryError


def exit_code_of(error: Exception) -> int | None:
    """Return the exit code of an error that one line explains; None if it needs a traceback."""
    if isinstance(error, PSLDError):
        return error.exit_code
    if isinstance(error, HydraException | OmegaConfBaseException | WRONG_PATHS):
        return 2
    if _disk_is_full(error) or _out_of_gpu_memory(error) or _lost_job(error):
        return 1
    if _no_slurm(error):
        return 2
    return None


def text_of(error: Exception) -> str:
    """Return an error as one line, without Hydra's advice that does not apply here."""
    text = " ".join(str(error).split())
    unknown = re.search(r"Could not override '(\S+)'\. To append .*", text)
    if unknown is None:
        return text
    known = f"no setting is called {unknown[1]}; the command's --help lists them"
    return text[: unknown.start()] + known


def one_line(error: Exception) -> str:
    """Return the line that a user sees."""
    text = text_of(error)
    if _disk_is_full(error):
        place = error.filename or "the disk"
        return f"{place}: cannot be written ({error.strerror}); free some space and try again"
    if _out_of_gpu_memory(error):
        return f"{text.split('. ')[0]}: lower training.micro_batch, or batch_size when sampling"
    if _lost_job(error):
        # This text separates a job's state from the end of its log.
        what = text.partition(") Error stream")[0].partition(") No ")[0]
        return f"{what}); the sweep's other jobs go on" if what != text else text
    if _no_slurm(error):
        return "hydra/launcher: there is no sbatch here; use hydra/launcher=submitit_local"
    return text


def _disk_is_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in DISK_ERRORS


# Recognize the next errors by name, because not every command imports torch or submitit.


def _out_of_gpu_memory(error: Exception) -> bool:
    return type(error).__name__ == "OutOfMemoryError"


def _lost_job(error: Exception) -> bool:
    """Recognize submitit's error for a job that was refused, killed or canceled."""
    return type(error).__name__ in ("UncompletedJobError", "FailedJobError")


def _no_slurm(error: Exception) -> bool:
    """Recognize submitit's error if no sbatch is installed."""
    return isinstance(error, RuntimeError) and "on a slurm cluster" in str(error)
