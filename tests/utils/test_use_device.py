"""The device of a process: its selection, numerical settings, cores and memory."""

import os
from collections.abc import Iterator
from unittest.mock import Mock

import pytest
import torch

from psld.utils import locks
from psld.utils.device import (
    choose_device,
    cores,
    give_back,
    peak_flops,
    provenance,
    tf32_in_use,
    use_device,
    use_tf32,
)
from psld.utils.errors import UserError


def test_only_supported_devices_are_accepted():
    assert use_device("cpu") == torch.device("cpu")
    assert choose_device("cpu") == torch.device("cpu")
    for name in (
        "gpu",
        "mps",
        "meta",
    ):  # psld does not support these
        with pytest.raises(UserError, match=f"no such device '{name}'; use auto, cpu or cuda"):
            choose_device(name)
    if not torch.cuda.is_available():
        assert choose_device("auto") == torch.device("cpu")
        with pytest.raises(UserError, match="torch sees no GPU here; use auto"):
            choose_device("cuda")


@pytest.fixture
def gpus(monkeypatch, tmp_path) -> Iterator[list[torch.device]]:
    """Two GPUs according to torch; returns the list of selected GPUs."""
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


def test_a_job_with_one_process_takes_a_free_gpu(gpus, monkeypatch):
    assert use_device("auto") == use_device("cuda") == torch.device("cuda:0")
    monkeypatch.setattr(locks, "_held", {})  # as another process
    assert use_device("auto") == torch.device("cuda:1")
    assert use_device("cuda:1") == torch.device("cuda:1"), "asked for by its number"
    monkeypatch.setattr(locks, "_held", {})
    assert use_device("cuda:0") == torch.device("cuda:0")
    assert not locks._held, "a GPU with a number is not shared out"


def test_a_gpu_that_is_given_back_is_unlocked(gpus, monkeypatch):
    emptied = Mock()
    monkeypatch.setattr(torch.cuda, "empty_cache", emptied)
    device = use_device("auto")
    give_back(torch.device("cpu"))
    assert locks._held, "it is no GPU's memory"
    give_back(device)
    emptied.assert_called_once()
    assert not locks._held


@pytest.mark.parametrize(
    ("environment", "count", "lines"),
    [
        ({}, 16, 0),
        ({"LOCAL_WORLD_SIZE": "8"}, 2, 1),
        ({"LOCAL_WORLD_SIZE": "5"}, 3, 0),
        ({"SLURM_CPUS_PER_TASK": "40"}, 16, 0),
        ({"LOCAL_WORLD_SIZE": "4", "SLURM_CPUS_PER_TASK": "6"}, 6, 0),
    ],
)
def test_a_gpu_with_few_cores_is_mentioned(gpus, monkeypatch, capsys, environment, count, lines):
    """The line is printed once, and not by metrics, which draw no noise."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cores() == count
    for rank in range(2):
        use_device("auto", rank=rank)
        use_device("auto", rank=rank, tf32=True)
    assert capsys.readouterr().out.count("CPU core(s) to draw noise for a GPU") == lines


def test_a_slurm_task_that_sees_one_gpu_takes_this_gpu(gpus, monkeypatch):
    """If a task sees several GPUs and starts the ranks itself, each rank uses the GPU with its
    number."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert [use_device("auto", rank=rank).index for rank in range(2)] == [0, 1]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert [use_device("auto", rank=rank).index for rank in range(2)] == [0, 0]
    monkeypatch.delenv("SLURM_JOB_ID")
    with pytest.raises(UserError, match="no cuda:1; torch sees 1 GPUs here"):
        use_device("auto", rank=1)


@pytest.mark.parametrize("tf32", [True, False])
def test_the_precision_of_a_gpu_is_set_and_recorded(gpus, tf32):
    use_device("auto", tf32=tf32)
    assert provenance()["precision"] == {
        "tf32_matmul": tf32,
        "tf32_convolutions": tf32,
        "cudnn_benchmark": True,
    }


def test_the_peak_flops_of_known_gpus_are_correct(gpus, monkeypatch):
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
