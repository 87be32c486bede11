"""Errors that are reported to the user in one line: wrong input and failures at run time.

The line states what is wrong, the file and key, and the remedy. Errors of torch, Hydra, OmegaConf
and submitit are recognized by name, because most processes do not import these packages.
"""

import errno
import re
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from traceback import walk_tb
from types import FrameType
from typing import Any, TypeGuard

WRONG_PATHS = PermissionError | NotADirectoryError | IsADirectoryError | FileNotFoundError
WRONG_PLACES = {errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOEXEC}

MACHINE_ERRORS = {errno.ENOMEM, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE}
"""Error numbers of failures of a machine or file system."""

DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Error numbers of writes that fail because there is not enough space."""

EXTRAS = {
    "workflow": {
        "hydra_plugins",
        "matplotlib",
        "snakemake",
        "snakemake_executor_plugin_slurm",
        "submitit",
    },
    "wandb": {"wandb", "wandb_workspaces"},
    "hub": {"huggingface_hub"},
    "datasets": {"datasets"},
}
"""For each extra of `pip install 'psld[EXTRA]'`, the optional packages that the extra installs."""


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
    """No difference was found, but at least one requested comparison was impossible."""

    exit_code = 3


def ignored(_number: int, _frame: FrameType | None) -> None:
    """Ignore a signal. Child processes inherit SIG_IGN, but not this handler."""


class Stopped(RunError):
    """A signal ended a training or a command. The exit code is 128 + signal, as in a shell."""

    def __init__(self, number: int, step: int) -> None:
        self.signal = signal.Signals(number)
        self.exit_code = 128 + number
        saved = f"step {step} is saved" if step else "no step is saved"
        super().__init__(
            f"stopped by {self.signal.name}; {saved}; run the same command again to go on"
        )


MAYBE_OUT_OF_MEMORY = ("unable to find an engine", "_ALLOC_FAILED", "_ALLOCATION_FAILED")
"""Messages of cuDNN and cuBLAS that may mean an out-of-memory error or a different failure."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if the machine or a GPU ran out of memory."""
    kinds, text = {kind.__name__ for kind in type(error).__mro__}, str(error)
    if not kinds.isdisjoint({"MemoryError", "OutOfMemoryError"}):
        return True
    if getattr(error, "errno", None) == errno.ENOMEM:
        return True
    if not isinstance(error, RuntimeError):
        return False
    if any(sign in text for sign in MAYBE_OUT_OF_MEMORY):
        # Only torch raises errors with these messages, so torch has been imported.
        free, total = sys.modules["torch"].cuda.mem_get_info()
        return free < total / 10
    # torch on a CPU and the CUDA driver raise out-of-memory errors without a specific type.
    return "allocate memory" in text or "CUDA error: out of memory" in text


def is_full_disk(error: BaseException) -> TypeGuard[OSError]:
    return isinstance(error, OSError) and error.errno in DISK_ERRORS


def is_exit_of_part(error: SystemExit) -> bool:
    """Check if a custom part has called sys.exit. A signal handler may also call sys.exit."""
    frame = [frame for frame, _ in walk_tb(error.__traceback__)][-1]
    kinds = (each for each in frame.f_globals.values() if isinstance(each, type))
    name = frame.f_globals.get("__name__")
    return any(k.__module__ == name and getattr(k, "source_code", None) for k in kinds)


def missing_extra(error: BaseException | None) -> str | None:
    """Return a line with the installation command if a missing optional package caused an error.

    Returns None for all other errors.
    """
    while error is not None and not isinstance(error, ModuleNotFoundError):
        error = error.__cause__ or error.__context__
    package = ((error and error.name) or "").partition(".")[0]
    for extra, packages in EXTRAS.items():
        if package in packages:
            return f"{package} is not installed; pip install 'psld[{extra}]'"
    return None


def reraise_fault(error: Exception, path: Any) -> None:
    """Reraise an error from reading `path`, unless the error indicates a damaged file.

    PSLDError, PermissionError, and errors of the machine or the disk are reraised. An out-of-memory
    error becomes a RunError that names the file.
    """
    if is_out_of_memory(error):
        reason = f" ({error})" if str(error) else ""
        raise RunError(f"{path}: not enough memory to read this file{reason}") from None
    if (
        isinstance(error, PermissionError | PSLDError)
        or getattr(error, "errno", None) in MACHINE_ERRORS | DISK_ERRORS
    ):
        raise error


@contextmanager
def reading(
    path: Any, wrong: str, remedy: str = "", kind: type[UserError] = UserError
) -> Iterator[None]:
    """Convert exceptions in this context to the error "PATH: WRONG (reason)REMEDY".

    Reading a damaged file can raise almost any exception. Therefore all exceptions are converted,
    except the exceptions that `reraise_fault` reraises.
    """
    try:
        yield
    except Exception as error:
        reraise_fault(error, path)
        reason = text_of(error) or type(error).__name__
        raise kind(f"{path}: {wrong} ({reason}){remedy}") from None


@contextmanager
def locating(where: Any, kind: type[Exception] = UserError) -> Iterator[None]:
    """Convert exceptions of this class to UserErrors with the prefix `where`."""
    try:
        yield
    except kind as error:
        raise UserError(f"{where}: {error}") from None


def printable(text: str) -> str:
    """Escape control characters in a text, because they could change the display of a terminal."""
    control = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
    return re.sub(control, lambda found: ascii(found[0])[1:-1], text)


def one_line(text: str) -> str:
    """Return a text as one line, with unprintable characters escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))


@contextmanager
def in_one_line() -> Iterator[None]:
    """Print an expected error as one line, and exit with its exit code."""
    try:
        yield
    except Exception as error:
        known = explained(error)
        if known is None:
            raise
        exit_code, line = known
        with suppress(OSError):  # On a full disk, exit with the code but without the line.
            print(f"error: {line}", file=sys.stderr)
        sys.exit(exit_code)


@contextmanager
def as_psld_errors() -> Iterator[None]:
    """Convert each exception that a command would report in one line to UserError or RunError."""
    try:
        yield
    except SystemExit as error:
        if not is_exit_of_part(error):
            raise
        raise RunError(f"a custom part has called sys.exit({error.code!r})") from error
    except Exception as error:
        if isinstance(error, PSLDError) or (known := explained(error)) is None:
            raise
        raise (UserError if known[0] == UserError.exit_code else RunError)(known[1]) from error


def explained(error: Exception) -> tuple[int, str] | None:
    """Return the exit code and the message of an expected error; None for an unexpected error."""
    text = text_of(error)
    if isinstance(error, PSLDError):
        return error.exit_code, text
    if line := missing_extra(error):
        return 2, line
    if isinstance(error, WRONG_PATHS):
        return 2, text
    if isinstance(error, FileExistsError):
        return 2, f"{error.filename}: is a file; output and runs are folders"
    if isinstance(error, OSError) and error.errno in WRONG_PLACES:
        return 2, text
    if is_full_disk(error):
        place = error.filename or "the disk"
        return 1, f"{place}: cannot be written ({error.strerror}); free some space and try again"
    if isinstance(error, UnicodeEncodeError):
        near = error.object[max(error.start - 40, 0) : error.end + 40]
        return 2, f"{near!r}: a name or text that is not Unicode; rename the file"
    if is_out_of_memory(error):
        first = text.split(". ")[0]
        what = first if "out of memory" in first else "out of memory"
        advice = "lower training.micro_batch, or batch_size when sampling, or give it more memory"
        return 1, f"{what}: {advice}"
    if isinstance(error, OSError) and error.errno in MACHINE_ERRORS:
        return 1, f"{text}; this machine or its file system failed, try again"
    return None


def text_of(error: BaseException) -> str:
    """Return the message of an error as one line."""
    text = missing_extra(error) or one_line(str(error) or str(error.__cause__ or ""))
    if isinstance(error, NotImplementedError) and not text:
        return "not implemented by the class"
    return text


def listed(names: Sequence[str], most: int, comma: str = ", ") -> str:
    """Join at most `most` names, and append the number of remaining names."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return comma.join(names[:most]) + more


def meant(word: str, names: Iterable[str], prefix: str = "", cutoff: float = 0.7) -> str:
    """Return a question that suggests the name most similar to a wrong word.

    Returns an empty string if no name is similar.
    """
    like = get_close_matches(word, names, n=1, cutoff=cutoff)
    return f" (is {prefix}{like[0]} meant?)" if like else ""


def entries_of(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of each entry of a config, including groups."""
    for key, value in content.items():
        yield f"{prefix}{key}", value
        if isinstance(value, dict):
            yield from entries_of(value, f"{prefix}{key}.")
