"""A training on this machine: its number of ranks, and its process."""

import os
import sys

import pytest

from psld.cluster.launcher import run_here
from psld.utils import locks
from tests.cluster.launching import launch_settings

COMMAND = ("train", "name=x", "network.attention_resolutions=[8,16]")


@pytest.fixture
def became(commands, monkeypatch, tmp_path):
    """Launch on this machine, and return the arguments and the environment of the new Python."""
    seen = []

    def execv(program, arguments):
        seen.append((program, arguments, dict(os.environ)))

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(locks, "GPU_LOCKS", tmp_path)
    monkeypatch.setattr(locks, "_held", {})

    def run(*overrides):
        run_here(launch_settings(*overrides, command=COMMAND), batch_size=128)
        [(program, arguments, environment)] = seen
        assert program == arguments[0] == sys.executable
        return arguments[1:], environment

    return run


@pytest.mark.parametrize(
    ("given", "visible", "ranks", "held"),
    [
        ("", None, 1, []),
        ("3", None, 3, []),
        ("3", "0", 3, []),
        ("1", "4,5,6", 1, []),  # The training chooses one.
        ("2", "4,5,6", 2, ["4", "5"]),
        ("", "0,1,2,3,4,5,6", 4, ["0", "1", "2", "3"]),
        ("3", "0,1,2", 3, ["0", "1", "2"]),
    ],
)
def test_the_number_of_gpus_divides_the_batch_unless_it_is_given(
    became, monkeypatch, capsys, given, visible, ranks, held
):
    """The locks of these GPUs survive the exec, so that other jobs use the other GPUs. The ranks do
    not belong to the surrounding job."""
    for name, value in (("SLURM_JOB_ID", "1"), ("SLURM_PROCID", "0")):
        monkeypatch.setenv(name, value)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    arguments, environment = became(f"tasks_per_node={given}")
    assert arguments == [*(torchrun if ranks > 1 else []), "-m", "psld", *COMMAND]
    assert not [name for name in environment if name.startswith("SLURM_")]
    assert environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "120", "else ranks are killed in 30 s"
    assert environment.get("CUDA_VISIBLE_DEVICES") == (",".join(held) or visible)
    assert sorted(locks._held) == held
    assert all(os.get_inheritable(descriptor) for descriptor in locks._held.values())
    said = "using 4 of 7 GPUs, because a batch has 128 images"
    assert (said in capsys.readouterr().out) == (ranks == 4)
