"""Tests on a fake GPU: `make test-fake-gpu` runs them in a separate process, and needs a C++
compiler.

The tests change torch in their process, so they run only if the command line names their folder.
"""

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent

if not any(word.startswith("tests/fake_gpu") for word in sys.argv):
    collect_ignore_glob = ["test_*.py"]


def reason_to_skip(library: Path) -> str | None:
    """Give this process a GPU without hardware, or return the reason why this is impossible."""
    if torch.version.cuda:
        return "this build of torch has CUDA; the fake GPU is for builds without"
    if not shutil.which("g++"):
        return "no g++ to compile tests/fake_gpu/guard.cpp"
    home = Path(torch.__file__).parent
    command = ["g++", "-std=c++20", "-fPIC", "-shared", f"-I{home}/include", "-o", library]
    command += [HERE / "guard.cpp", f"-L{home}/lib", "-lc10", "-ltorch_cpu"]
    compiled = subprocess.run(command, capture_output=True, text=True, check=False)
    if compiled.returncode:
        first = next(line for line in compiled.stderr.splitlines() if "error" in line)
        return f"tests/fake_gpu/guard.cpp does not fit torch {torch.__version__}: {first}"
    ctypes.CDLL(str(library)).pretend()
    return None


@pytest.fixture(scope="session", autouse=True)
def _guard(tmp_path_factory) -> None:
    reason = reason_to_skip(tmp_path_factory.mktemp("guard") / "guard.so")
    if reason:
        pytest.skip(reason)
    torch.set_num_threads(1)
