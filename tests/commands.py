"""Functions that run the entry points, in a separate process or (faster) in the tests' process."""

import contextlib
import ctypes
import io
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from psld.commands.main import main
from psld.utils import code, files

TINY = (
    "network.base_channels=8",
    "network.channel_multipliers=[1,2]",
    "network.blocks_per_level=1",
    "network.attention_resolutions=[]",
    "network.block=ddpm",
    "network.dropout=0",
    "training.batch_size=16",
    "training.learning_rate=1e-3",
    "training.warmup_steps=5",
    "training.ema_decay=0.9",
    "training.preview_every=null",
    "wandb.mode=disabled",
)
"""Settings of a training whose steps take milliseconds; they do not depend on the demo's settings.
"""

Finished = subprocess.CompletedProcess[str]


def command(name: str, *overrides: str) -> list[str]:
    """Return the words of a command line."""
    return [sys.executable, "-m", "psld", name, *overrides]


def run(folder: Path, arguments: list[str]) -> Finished:
    """Run a command in `folder` to its end."""
    return subprocess.run(
        arguments,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@contextlib.contextmanager
def started(folder: Path, arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Start a command in `folder`; it is killed if it still runs at the end of the context."""
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, cwd=folder, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def fresh_modules() -> Iterator[None]:
    """Import the modules of the tests' folders, as a new process would."""
    path, temporary = [*sys.path], tempfile.gettempdir()
    kept = sys.prefix, str(Path(__file__).parents[1])  # A checkout may be in a temporary folder.

    def forget() -> None:
        code._home = None
        for name, module in [*sys.modules.items()]:
            file = str(getattr(module, "__file__", None))
            if file.startswith(temporary) and not file.startswith(kept):
                del sys.modules[name]

    forget()
    try:
        yield
    finally:
        forget()
        sys.path[:] = path


def call(folder: Path, name: str, *overrides: str) -> Finished:
    """Run `psld NAME OVERRIDES` in `folder`, but in this process, to save seconds of imports."""
    out, err = io.StringIO(), io.StringIO()
    on_terminate = signal.getsignal(signal.SIGTERM)
    exit_code = 0
    with (
        contextlib.chdir(folder),
        fresh_modules(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys, "argv", ["psld", name, *overrides])
        files._leftovers.cache_clear()  # as in a new process
        if name in ("train", "train_guide"):  # measure the speed with one image
            patch.setattr("psld.models.build.MOST_TIMED", 1)
        try:
            main()
        except SystemExit as ended:
            exit_code = ended.code
        finally:
            signal.signal(signal.SIGTERM, on_terminate)
    return Finished([name, *overrides], exit_code, out.getvalue(), err.getvalue())


def succeeded(finished: Finished) -> Finished:
    """Return the process, and assert that the command succeeded."""
    assert finished.returncode == 0, finished.stderr
    return finished


def refused(finished: Finished, exit_code: int, *words: str) -> str:
    """Return the error line of a failed command, and assert that it contains all of `words`."""
    assert finished.returncode == exit_code, finished.stderr
    assert finished.stderr.startswith("error: "), finished.stderr
    assert finished.stderr.count("\n") == 1, finished.stderr
    for word in words:
        assert word in finished.stderr
    return finished.stderr


@contextlib.contextmanager
def disk_full_after(nbytes: int) -> Iterator[None]:
    """Limit the size of files, so that writes fail as on a full disk (with EFBIG instead of
    ENOSPC)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Remove the permission to write into a folder, even for root."""
    mode = folder.stat().st_mode
    folder.chmod(0o555)
    try:
        with without_rights_of_root():
            yield
    finally:
        folder.chmod(mode)


CAP_DAC_OVERRIDE, PR_SET_SECUREBITS, SECBIT_NOROOT = 1, 28, 1  # linux/capability.h, prctl.h


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


@contextlib.contextmanager
def without_rights_of_root() -> Iterator[None]:
    """Remove root's permission to write anywhere from this thread and its child processes.

    See capset(2) and prctl(2).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    header = _Header(0x20080522, 0)
    kept = (ctypes.c_uint32 * 6)()  # two sets of effective, permitted and inheritable capabilities
    assert libc.capget(ctypes.byref(header), kept) == 0
    fewer = (ctypes.c_uint32 * 6)(*kept)
    fewer[0] &= ~(1 << CAP_DAC_OVERRIDE)
    libc.prctl(PR_SET_SECUREBITS, SECBIT_NOROOT, 0, 0, 0)
    assert libc.capset(ctypes.byref(header), fewer) == 0
    try:
        yield
    finally:
        assert libc.capset(ctypes.byref(header), kept) == 0
        libc.prctl(PR_SET_SECUREBITS, 0, 0, 0, 0)


def run_directory(folder: Path) -> Path:
    """Return the run directory of the only training in `folder`."""
    (directory,) = (folder / "runs").iterdir()
    return directory


def files_below(folder: Path) -> dict[str, bytes]:
    """Return the contents of all files below a folder, including temporary files."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
