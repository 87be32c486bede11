"""One training on several ranks: two processes over gloo against one."""

import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file

from psld.training import ranks as ranks_module
from psld.training.ranks import join_ranks, meeting_port
from psld.utils import locks
from psld.utils.device import (
    choose_device,
    cores,
    peak_flops,
    provenance,
    tf32_in_use,
    use_device,
    use_tf32,
)
from psld.utils.errors import UserError
from psld.utils.tensors import grouped
from tests.commands import TINY, call, command, run, run_directory, succeeded

SETTINGS = (
    *TINY,
    "training.steps=8",
    "training.checkpoint_every=4",
    "training.log_every=4",
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
    assert finished.stdout.count("step 8/8") == 1, "the leading rank alone reports"
    assert finished.stdout.count("wrote") == 1

    weights = [load_file(folder / "model" / "weights.safetensors") for folder in (one, two)]
    last = "checkpoints/checkpoint-00000008.safetensors"
    trained = [grouped(load_file(run_directory(folder) / last))["network"] for folder in (one, two)]
    for first, second in (weights, trained):
        assert first.keys() == second.keys()
        for name, value in first.items():
            torch.testing.assert_close(second[name], value, atol=1e-5, rtol=0, msg=name)


def test_one_rank_needs_no_launcher():
    with join_ranks("cpu") as ranks:
        assert (ranks.rank, ranks.world, ranks.leads) == (0, 1, True)
        assert not torch.distributed.is_initialized()
        assert ranks.largest(15) == 15
        values = torch.tensor([1.0, 2.0])
        assert torch.equal(ranks.mean(values), values)
        network = torch.nn.Linear(1, 1)
        assert ranks.parallel(network) is network


def test_neighbouring_jobs_and_lives_meet_at_different_ports(monkeypatch):
    """Below the ports of outgoing connections: 32768 and up on Linux."""

    def port(job: int, lives: int) -> int:
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(lives))
        return meeting_port(Mock(raw_job_id=str(job)))

    jobs = [port(job, lives=0) for job in (1, 2, 26, 27, 28, 11_999, 12_000, 4_000_000_000)]
    lives = [port(25, lives) for lives in range(4)]
    assert len({*jobs, *lives}) == len(jobs) + len(lives)
    assert all(20_000 <= number < 32_000 for number in (*jobs, *lives))
    monkeypatch.delenv("SLURM_RESTART_COUNT")
    assert meeting_port(Mock(raw_job_id="25")) == lives[0]


def test_devices():
    assert use_device("cpu") == torch.device("cpu")
    assert choose_device("cpu") == torch.device("cpu")
    for name in ("gpu", "mps", "meta"):  # torch has some of them, but nothing here is for it
        with pytest.raises(UserError, match=f"no such device '{name}'; use auto, cpu or cuda"):
            choose_device(name)
    if not torch.cuda.is_available():
        assert choose_device("auto") == torch.device("cpu")
        with pytest.raises(UserError, match="torch sees no GPU here; use auto"):
            choose_device("cuda")


@pytest.fixture
def gpus(monkeypatch, tmp_path) -> Iterator[list[torch.device]]:
    """Two GPUs, as torch tells of them; the list is of those that were chosen."""
    chosen: list[torch.device] = []
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(locks, "GPU_LOCKS", tmp_path)
    monkeypatch.setattr(locks, "_held", {})
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Mock(uuid=f"0-{index}"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    before = tf32_in_use()
    yield chosen
    use_tf32(*before)


def test_a_rank_takes_the_gpu_of_its_number(gpus):
    assert [use_device("auto", rank=rank).index for rank in range(2)] == [0, 1]
    assert use_device("cuda:1", rank=0).index == 1
    with pytest.raises(UserError, match="no cuda:2; torch sees 2 GPUs here"):
        use_device("auto", rank=2)
    assert [device.index for device in gpus] == [0, 1, 1]
    assert not locks._held


def test_a_job_alone_takes_a_gpu_that_no_other_job_has(gpus, monkeypatch):
    assert use_device("auto") == use_device("cuda") == torch.device("cuda:0")
    monkeypatch.setattr(locks, "_held", {})  # as another process
    assert use_device("auto") == torch.device("cuda:1")
    assert use_device("cuda:1") == torch.device("cuda:1"), "asked for by its number"


@pytest.mark.parametrize(
    ("environment", "count", "lines"),
    [
        ({}, 16, 0),
        ({"LOCAL_WORLD_SIZE": "8"}, 2, 1),
        ({"LOCAL_WORLD_SIZE": "4", "SLURM_CPUS_PER_TASK": "6"}, 6, 0),
    ],
)
def test_a_gpu_with_few_cores_is_mentioned(gpus, monkeypatch, capsys, environment, count, lines):
    """Once, and not by metrics, which draw no noise."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cores() == count
    for rank in range(2):
        use_device("auto", rank=rank)
        use_device("auto", rank=rank, tf32=True)
    assert capsys.readouterr().out.count("CPU core(s) for a GPU") == lines


def test_a_task_of_slurm_that_sees_its_own_gpu_alone_takes_that(gpus, monkeypatch):
    """And not the first of several, where a task starts the ranks itself."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert [use_device("auto", rank=rank).index for rank in range(2)] == [0, 1]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert [use_device("auto", rank=rank).index for rank in range(2)] == [0, 0]
    monkeypatch.delenv("SLURM_JOB_ID")
    with pytest.raises(UserError, match="no cuda:1; torch sees 1 GPUs here"):
        use_device("auto", rank=1)


@pytest.mark.parametrize("tf32", [True, False])
def test_how_a_gpu_computes_is_set_and_recorded(gpus, tf32):
    use_device("auto", tf32=tf32)
    assert provenance()["precision"] == {
        "tf32_matmul": tf32,
        "tf32_convolutions": tf32,
        "cudnn_benchmark": True,
    }


def test_the_peak_of_a_card(gpus, monkeypatch):
    for name, bf16, fp32 in (
        ("NVIDIA H100 80GB HBM3", 989e12, 494e12),
        ("NVIDIA H100 PCIe", 756e12, 378e12),
        ("NVIDIA A100-SXM4-80GB", 312e12, 156e12),
        ("NVIDIA T4", None, None),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _, name=name: name)
        device = torch.device("cuda", 0)
        assert (peak_flops(device, "bf16"), peak_flops(device, "fp32")) == (bf16, fp32)
    assert peak_flops(torch.device("cpu"), "bf16") is None


# --- exchange -----------------------------------------------------------------------------------


@pytest.fixture
def group(monkeypatch) -> Mock:
    """Stands in for torch.distributed: this process is rank 1 of 2, on the second GPU."""
    monkeypatch.setattr(os, "environ", os.environ | {"RANK": "1", "LOCAL_RANK": "1"})
    os.environ["WORLD_SIZE"] = "2"
    group = Mock(ReduceOp=torch.distributed.ReduceOp)
    monkeypatch.setattr(ranks_module, "dist", group)
    return group


def test_gpus_exchange_gradients_by_nccl_and_numbers_by_gloo(gpus, group):
    """For days until the first step, and for minutes once all ranks are there."""
    backend = group.group.WORLD._get_backend.return_value
    with join_ranks("auto") as ranks:
        [[names], options] = group.init_process_group.call_args
        assert names == "cpu:gloo,cuda:nccl"
        assert options["device_id"] == ranks.device == torch.device("cuda:1")
        assert options["timeout"] >= timedelta(days=1)
        ranks.barrier(), ranks.largest(3), ranks.mean(torch.ones(2))
        ranks.limit_exchanges()
    calls = group.all_reduce.mock_calls
    assert len(calls) == 5, "a barrier before the limit, and one at the end"
    assert {call.args[0].device.type for call in calls} == {"cpu"}
    backend._set_default_timeout.assert_called_once_with(timedelta(minutes=30))
    group.destroy_process_group.assert_called_once()


def test_numbers_are_those_of_all_ranks(group):
    """The other rank has 5 more of each."""

    def all_reduce(values, op=torch.distributed.ReduceOp.SUM, group=None):
        assert group is not None, "threads of the gradients' group would outlive Python"
        if op == torch.distributed.ReduceOp.SUM:
            values += values + 5
        else:
            assert op == torch.distributed.ReduceOp.MAX
            values += 5

    group.all_reduce = all_reduce
    with join_ranks("cpu") as ranks:
        assert (ranks.rank, ranks.world, ranks.leads) == (1, 2, False)
        assert ranks.mean(torch.tensor([1.0, 3.0])).tolist() == [3.5, 5.5]
        assert ranks.largest(7) == 12


def test_a_rank_takes_the_gpu_of_its_number_on_its_own_node(gpus, group):
    os.environ |= {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
    with join_ranks("auto") as ranks:
        assert (ranks.rank, ranks.device) == (5, torch.device("cuda:1"))
    assert tf32_in_use() == (True, True)


def test_ranks_on_cpus_use_gloo_and_keep_their_patience(group):
    with join_ranks("cpu") as ranks:
        [[backend], options] = group.init_process_group.call_args
        assert (backend, options["device_id"]) == ("gloo", None)
        ranks.limit_exchanges()
    group.group.WORLD._get_backend.assert_not_called()
