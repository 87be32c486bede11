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
    """Launches here; gives the arguments of python and the environment that it would run with."""
    seen = []

    def execv(program, arguments):
        seen.append((program, arguments, dict(os.environ)))

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(locks, "GPU_LOCKS", tmp_path)
    monkeypatch.setattr(locks, "_held", {})

    def run(*overrides, command=COMMAND):
        run_here(launch_settings(*overrides, command=command), batch_size=128)
        [(program, arguments, environment)] = seen
        assert program == arguments[0] == sys.executable
        return arguments[1:], environment

    return run


def test_one_rank_is_the_training_itself(became):
    assert became()[0] == ["-m", "psld", *COMMAND]


@pytest.mark.parametrize(
    ("word", "visible", "ranks"),
    [("tasks_per_node=3", None, 3), ("tasks_per_node=", "0,1", 2), ("tasks_per_node=3", "0", 3)],
)
def test_several_ranks_are_torchruns(became, monkeypatch, word, visible, ranks):
    """A surrounding job is not theirs."""
    for name, value in (("SLURM_JOB_ID", "1"), ("SLURM_PROCID", "0")):
        monkeypatch.setenv(name, value)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    arguments, environment = became(word)
    assert arguments == [*torchrun, "-m", "psld", *COMMAND]
    assert not [name for name in environment if name.startswith("SLURM_")]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_program_of_yours_is_run_by_one_process_that_saves_its_lives(became, ranks):
    """Also where it has several ranks."""
    words = ("done=DONE", "runs=runs", f"tasks_per_node={ranks}")
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    torchrun = [sys.executable, *torchrun, "--no-python"] if ranks > 1 else []
    arguments, _ = became(*words, command=("fit.sh", "--help"))
    assert arguments == ["-m", "psld.cluster.job", "runs", "DONE", *torchrun, "fit.sh", "--help"]


@pytest.mark.parametrize(
    ("given", "gpus", "ranks"), [("", 3, 2), ("", 7, 4), ("", 8, 8), ("6", 6, 6)]
)
def test_as_many_gpus_train_as_share_the_batch(became, monkeypatch, capsys, given, gpus, ranks):
    """Unless their number is given."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus))))
    assert f"--nproc-per-node={ranks}" in became(f"tasks_per_node={given}")[0]
    said = f"{ranks} of {gpus} GPUs train, because they share 128 images equally"
    assert (said in capsys.readouterr().out) == (ranks < gpus)


@pytest.mark.parametrize(
    ("ranks", "visible", "left", "held"),
    [
        (2, "4,5,6", "4,5", ["4", "5"]),  # past the exec, so that other jobs take the others
        (1, "4,5,6", "4,5,6", []),  # The training chooses one.
        (2, "1", "1", []),
        (2, "0,3", "0,3", ["0", "3"]),
    ],
)
def test_gpus(became, monkeypatch, ranks, visible, left, held):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert became(f"tasks_per_node={ranks}")[1]["CUDA_VISIBLE_DEVICES"] == left
    assert sorted(locks._held) == held
    assert all(os.get_inheritable(descriptor) for descriptor in locks._held.values())
