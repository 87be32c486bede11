"""One training on several ranks: two processes over gloo against one."""

import sys
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file

from psld.training.ranks import Ranks, join_ranks, meeting_port
from psld.utils.device import choose_device
from psld.utils.errors import UserError
from tests.commands import TINY, call, command, run, run_directory, succeeded

SETTINGS = (
    *TINY,
    "training.steps=20",
    "training.checkpoint_every=10",
    "training.log_every=10",
    "training.micro_batch=4",
)


def test_two_ranks_train_what_one_trains(digits, tmp_path):
    """The same global batch, dropout off: weights, average and optimiser agree to rounding."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    settings = (*SETTINGS, f"data={digits}", "output=model")
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    succeeded(call(one, "train", *settings))
    train = command("train", *settings)[1:]
    finished = succeeded(run(two, [*launcher, *train]))
    assert finished.stdout.count("step 20/20") == 1, "the leading rank alone reports"
    assert finished.stdout.count("wrote") == 1

    weights = [load_file(folder / "model" / "weights.safetensors") for folder in (one, two)]
    trained = [
        torch.load(
            run_directory(folder) / "checkpoints" / "checkpoint-00000020.pt", weights_only=True
        )["network"]
        for folder in (one, two)
    ]
    for first, second in (weights, trained):
        assert first.keys() == second.keys()
        for name, value in first.items():
            torch.testing.assert_close(second[name], value, atol=1e-5, rtol=0, msg=name)


def test_one_rank_needs_no_launcher():
    with join_ranks("cpu") as ranks:
        assert (ranks.rank, ranks.world, ranks.leads) == (0, 1, True)
        assert not torch.distributed.is_initialized()
        assert ranks.largest(15) == ranks.of_leader(15) == 15
        values = torch.tensor([1.0, 2.0])
        assert torch.equal(ranks.mean(values), values)
        network = torch.nn.Linear(1, 1)
        assert ranks.parallel(network) is network


def test_neighbouring_jobs_and_lives_meet_at_different_ports(monkeypatch):
    """Below the ports of outgoing connections: 32768 and up on Linux."""

    def port(job: int, lives: int) -> int:
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(lives))
        return meeting_port(Mock(raw_job_id=str(job)))

    jobs = [port(job, lives=0) for job in (1, 2, 11_999, 12_000, 4_000_000_000)]
    lives = [port(25, lives) for lives in range(4)]
    assert len({*jobs, *lives}) == len(jobs) + len(lives)
    assert all(20_000 <= number < 32_000 for number in (*jobs, *lives))
    monkeypatch.delenv("SLURM_RESTART_COUNT")
    assert meeting_port(Mock(raw_job_id="25")) == lives[0]


def test_the_first_rank_leads():
    cpu = torch.device("cpu")
    assert [Ranks(rank, 3, cpu).leads for rank in range(3)] == [True, False, False]


def test_devices():
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="no such device 'gpu'; use auto, cpu or cuda"):
        choose_device("gpu")


@pytest.fixture
def gpus(monkeypatch) -> list[torch.device]:
    """Two GPUs, as torch tells of them; the list is of those that were chosen."""
    chosen: list[torch.device] = []
    monkeypatch.delenv("SLURM_GPUS_PER_TASK", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    return chosen


def test_a_rank_takes_the_gpu_of_its_number(gpus):
    assert [choose_device("auto", rank).index for rank in range(2)] == [0, 1]
    assert choose_device("cuda:1", 0).index == 1
    with pytest.raises(UserError, match="no cuda:2; torch sees 2 GPUs here"):
        choose_device("auto", 2)
    assert [device.index for device in gpus] == [0, 1, 1]


def test_a_rank_that_sees_its_own_gpu_alone_takes_that(gpus, monkeypatch):
    """And not the first of several, where a task starts the ranks itself."""
    monkeypatch.setenv("SLURM_GPUS_PER_TASK", "2")
    assert [choose_device("auto", rank).index for rank in range(2)] == [0, 1]
    monkeypatch.setenv("SLURM_GPUS_PER_TASK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert [choose_device("auto", rank).index for rank in range(2)] == [0, 0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_devices_without_a_gpu():
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(UserError, match="torch sees no GPU here; use auto"):
        choose_device("cuda")
