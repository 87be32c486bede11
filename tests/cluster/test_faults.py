"""Faults of a machine, after which a command is tried once more."""

import os
import sys

import pytest
import torch
from torch.distributed import DistBackendError

from psld.cluster.faults import is_transient
from psld.commands.entry import entry_point
from psld.data.settings import PrepareSettings
from psld.utils.errors import RunError, UserError
from tests.commands import run

ECC = RuntimeError("CUDA error: uncorrectable ECC error encountered")


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (ECC, True),
        (RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might"), True),
        (DistBackendError("NCCL error in: ProcessGroupNCCL.cpp, unhandled system error"), True),
        (RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer"), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), False),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (UserError("x.h5: gloo"), False),
        (RunError("NaN or infinity in the loss at step 3"), False),
    ],
)
def test_which_errors_a_second_try_may_not_meet(error, transient):
    assert is_transient(error) is transient


FAILS = """
import sys
from psld.cluster.faults import try_again_once
with open("tries", "a") as tries:
    tries.write("x")
try:
    raise RuntimeError(sys.argv[1])
except RuntimeError as error:
    try_again_once(error)
    raise
"""


@pytest.mark.parametrize(
    ("message", "variables", "tries"),
    [
        (str(ECC), {}, 2),
        ("CUDA error: device-side assert triggered", {}, 1),
        # One rank cannot begin again without the others, and a launcher of Slurm's sees to it.
        (str(ECC), {"WORLD_SIZE": "2"}, 1),
        (str(ECC), {"SUBMITIT_EXECUTOR": "slurm"}, 1),
    ],
)
def test_a_command_is_tried_once_more(tmp_path, monkeypatch, message, variables, tries):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    finished = run(tmp_path, [sys.executable, "-c", FAILS, message])
    assert finished.returncode == 1
    assert (tmp_path / "tries").read_text() == "x" * tries
    assert finished.stderr.count("trying once more") == tries - 1
    assert finished.stderr.count(f"RuntimeError: {message}") == tries


def test_every_command_has_its_second_try(monkeypatch, signals):
    class Became(Exception):
        """The process would be another now."""

    def execve(program, arguments, environment):
        raise Became(arguments)

    def main(settings):
        raise ECC

    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.setattr("sys.argv", ["prepare"])
    with pytest.raises(Became) as became:
        entry_point("prepare", PrepareSettings)(main)()
    assert became.value.args == ([sys.executable, *sys.orig_argv[1:]],)
